//! Without CUDA there are no kernels of our own, and nothing here is ever called.

use candle_core::{Device, Result, Tensor};

use super::attention::{Look, Turn};
use super::input::Input;
use crate::gguf::TensorType;

/// None exist.
pub(super) enum Kernels {}

/// None exist.
pub(super) enum PackedMatrix {}

impl Kernels {
    pub(super) fn of(_: &Device) -> Result<Option<Self>> {
        Ok(None)
    }

    pub(super) fn attend_with(_: usize, _: usize) -> bool {
        false
    }

    pub(super) fn add_norm(
        &self,
        _: (&Tensor, &Tensor),
        _: (&Tensor, f32),
        _: bool,
    ) -> Result<(Tensor, Input)> {
        match *self {}
    }

    pub(super) fn product(&self, _: &Tensor, _: &Tensor) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn turn(
        &self,
        _: &Tensor,
        _: &Turn<'_>,
        _: f32,
        _: Option<&Tensor>,
    ) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn store(
        &self,
        _: (&Tensor, &Tensor),
        _: &Tensor,
        _: &Tensor,
        _: &Turn<'_>,
    ) -> Result<()> {
        match *self {}
    }

    pub(super) fn attend(
        &self,
        _: &Tensor,
        _: usize,
        _: &Tensor,
        _: &Look<'_>,
        _: bool,
    ) -> Result<Input> {
        match *self {}
    }

    pub(super) fn soften(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: usize,
        _: (usize, Option<f32>),
    ) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn gated(&self, _: &Tensor, _: &Tensor) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn pack(
        &self,
        _: TensorType,
        _: (usize, usize),
        _: &[u8],
    ) -> Result<Option<PackedMatrix>> {
        match *self {}
    }

    pub(super) fn weights(matrix: &PackedMatrix) -> usize {
        match *matrix {}
    }

    pub(super) fn gates(matrix: &PackedMatrix) -> bool {
        match *matrix {}
    }

    pub(super) fn stacked(
        &self,
        _: &PackedMatrix,
        _: &PackedMatrix,
    ) -> Result<Option<PackedMatrix>> {
        match *self {}
    }

    pub(super) fn round(&self, _: &Tensor) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn multiply(&self, _: &Tensor, _: &PackedMatrix) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn multiply_gated(&self, _: &Tensor, _: &PackedMatrix) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn unpacked(&self, _: &PackedMatrix) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn lookup(&self, _: &PackedMatrix, _: &Tensor) -> Result<Tensor> {
        match *self {}
    }
}
