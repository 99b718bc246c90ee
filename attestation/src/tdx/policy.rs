//! What a TDX quote must say. Built from non-empty lists only: empty means none (attack B3).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::status::TcbStatus;
use crate::digest::{ChipId, Measurement};

/// TDATTRIBUTES bits (Intel TDX Module ABI, TD_ATTRIBUTES).
pub(crate) mod attributes {
    /// The host sees the TD's memory and state.
    pub(crate) const DEBUG: u64 = 1;
    /// Bits that make a TD one under debug: DEBUG, profiling, and what may come.
    pub(crate) const UNDER_DEBUG: u64 = 0xff;
    /// The TD names its service TDs at length.
    pub(crate) const SERVTD_EXT: u64 = 1 << 17;
    /// An access to a page that the host took away stops the TD instead of asking a handler in it.
    pub(crate) const SEPT_VE_DISABLE: u64 = 1 << 28;
    /// A migration TD may carry the TD to another machine.
    pub(crate) const MIGRATABLE: u64 = 1 << 29;
    /// The TD may use performance counters.
    pub(crate) const PERFMON: u64 = 1 << 63;
    /// A defence against single-stepping, linear address separation, supervisor protection keys and key locker: what a
    /// TD may use inside, and nothing that opens it to the host.
    pub(crate) const HARMLESS: u64 = 1 << 16 | 1 << 27 | 1 << 30 | 1 << 31;
}

/// XFAM bits that every TD has: x87 and SSE.
pub(crate) const XFAM_FIXED: u64 = 0x3;
/// XFAM bits that TDX modules support: x87, SSE, AVX, AVX-512, PT, PKRU, CET, ULI, LBR and AMX.
pub(crate) const XFAM_SUPPORTED: u64 = 0x0006_dbe7;

/// A month and a day: collateral that Intel issues is due again after 30 days.
const COLLATERAL_AGE_MAX_SECS: u64 = 31 * 86_400;

/// What becomes of a value that was measured. In JSON a list, or null for any value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<Vec<Measurement>>", into = "Option<Vec<Measurement>>")]
pub enum Expected {
    /// Any of these. An empty list accepts none.
    OneOf(Vec<Measurement>),
    /// Any value, shown on the verdict.
    NotJudged,
}

impl Expected {
    pub(crate) fn accepts(&self, found: &Measurement) -> bool {
        match self {
            Self::OneOf(values) => values.contains(found),
            Self::NotJudged => true,
        }
    }

    /// Any value, shown on the verdict.
    pub(crate) const fn any() -> Self {
        Self::NotJudged
    }

    /// Zeros: nothing was named.
    pub(crate) fn zeros() -> Self {
        Self::OneOf(vec![Measurement::from_bytes([0; 48])])
    }
}

impl From<Option<Vec<Measurement>>> for Expected {
    fn from(values: Option<Vec<Measurement>>) -> Self {
        values.map_or(Self::NotJudged, Self::OneOf)
    }
}

impl From<Expected> for Option<Vec<Measurement>> {
    fn from(expected: Expected) -> Self {
        match expected {
            Expected::OneOf(values) => Some(values),
            Expected::NotJudged => None,
        }
    }
}

/// One TD that is right: what it was at launch, and what it measured since. A list has one for each machine shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxMeasurement {
    /// MRTD: the firmware, at launch.
    pub mrtd: Measurement,
    /// RTMR0 to RTMR3. Firmware configuration, kernel, initrd and command line, and what the system adds: without them
    /// nothing is known but the firmware.
    pub rtmrs: [Expected; 4],
}

/// How a platform may be put together, beside being in the fleet list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlatformFlag {
    /// Packages can be added later.
    DynamicPlatform,
    /// Intel keeps the platform's root keys.
    CachedKeys,
    /// Two threads share a core.
    SmtEnabled,
}

/// Why no policy could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TdxPolicyError {
    /// Empty means none.
    #[error("no measurement is listed for this platform: nothing could be accepted")]
    NoMeasurements,
    /// Empty means none.
    #[error("no platform is listed: nothing could be accepted")]
    NoPlatforms,
    /// Zeros would stand for every platform that hides its id.
    #[error("fleet list names a platform id of zeros")]
    MaskedPlatform,
    /// Collateral of any age would do.
    #[error("the floor of collateral is 0: give the tcbEvaluationDataNumber that is current")]
    NoCollateralFloor,
    /// Keys of such platforms are known to others.
    #[error("status Revoked cannot be accepted")]
    RevokedAccepted,
    /// Such a TD does not exist.
    #[error("XFAM mask {0:#x} lacks x87 or SSE, or has bits that no TDX module supports")]
    Xfam(u64),
    /// Zeros are the absence of one.
    #[error("a service TD of zeros is none: leave it out")]
    NoServiceTd,
}

/// What a TDX quote must say to be accepted.
#[derive(Debug, Clone)]
pub struct TdxPolicy {
    pub(crate) measurements: Vec<TdxMeasurement>,
    pub(crate) platforms: Vec<ChipId>,
    pub(crate) statuses: BTreeMap<TcbStatus, Vec<String>>,
    pub(crate) collateral_floor: u32,
    pub(crate) collateral_age_max_secs: u64,
    pub(crate) tee_tcb_svn_floor: [u8; 16],
    pub(crate) attributes: u64,
    pub(crate) xfam: u64,
    pub(crate) mr_seam: Expected,
    pub(crate) service_tds: Vec<Measurement>,
    pub(crate) mr_config_id: Expected,
    pub(crate) mr_owner: Expected,
    pub(crate) mr_owner_config: Expected,
    pub(crate) refused_flags: Vec<PlatformFlag>,
}

impl TdxPolicy {
    /// The strictest policy for these lists: status `UpToDate` alone, no performance counters, no service TD, no
    /// configuration or owner named by the host. `platforms` are ids as [`super::PckPlatform::id`] makes them;
    /// `collateral_floor` is the lowest `tcbEvaluationDataNumber`.
    ///
    /// # Errors
    /// [`TdxPolicyError`] for an empty list, a platform id of zeros, or no floor.
    pub fn new(
        measurements: Vec<TdxMeasurement>,
        platforms: Vec<ChipId>,
        collateral_floor: u32,
    ) -> Result<Self, TdxPolicyError> {
        if measurements.is_empty() {
            return Err(TdxPolicyError::NoMeasurements);
        }
        if platforms.is_empty() {
            return Err(TdxPolicyError::NoPlatforms);
        }
        if platforms.iter().any(ChipId::is_masked) {
            return Err(TdxPolicyError::MaskedPlatform);
        }
        if collateral_floor == 0 {
            return Err(TdxPolicyError::NoCollateralFloor);
        }
        Ok(Self {
            measurements,
            platforms,
            statuses: BTreeMap::from([(TcbStatus::UpToDate, Vec::new())]),
            collateral_floor,
            collateral_age_max_secs: COLLATERAL_AGE_MAX_SECS,
            tee_tcb_svn_floor: [0; 16],
            attributes: attributes::HARMLESS,
            xfam: XFAM_SUPPORTED,
            mr_seam: Expected::NotJudged,
            service_tds: Vec::new(),
            mr_config_id: Expected::zeros(),
            mr_owner: Expected::zeros(),
            mr_owner_config: Expected::zeros(),
            refused_flags: Vec::new(),
        })
    }

    /// Accepts another status, as long as it comes with none but these advisories. The verdict says so.
    ///
    /// # Errors
    /// [`TdxPolicyError::RevokedAccepted`].
    pub fn accepting(
        mut self,
        status: TcbStatus,
        advisories: &[&str],
    ) -> Result<Self, TdxPolicyError> {
        if status == TcbStatus::Revoked {
            return Err(TdxPolicyError::RevokedAccepted);
        }
        let advisories = advisories.iter().map(|id| (*id).to_owned());
        self.statuses.entry(status).or_default().extend(advisories);
        Ok(self)
    }

    /// How old collateral may be, in seconds since it was issued. The root's revocation list, which is issued once a
    /// year, has its own date alone.
    #[must_use]
    pub fn with_collateral_age_max_secs(mut self, secs: u64) -> Self {
        self.collateral_age_max_secs = secs;
        self
    }

    /// The lowest TEE_TCB_SVN, at launch and now. Bytes 1 and 0 are one number (generation and version of the TDX
    /// module), the others are compared one by one.
    #[must_use]
    pub fn with_tee_tcb_svn_floor(mut self, floor: [u8; 16]) -> Self {
        self.tee_tcb_svn_floor = floor;
        self
    }

    /// Accepts TDs that may use performance counters.
    #[must_use]
    pub fn accepting_perfmon(mut self) -> Self {
        self.attributes |= attributes::PERFMON;
        self
    }

    /// The processor state that a TD may use at most.
    ///
    /// # Errors
    /// [`TdxPolicyError::Xfam`].
    pub fn with_xfam(mut self, mask: u64) -> Result<Self, TdxPolicyError> {
        if mask & XFAM_FIXED != XFAM_FIXED || mask & !XFAM_SUPPORTED != 0 {
            return Err(TdxPolicyError::Xfam(mask));
        }
        self.xfam = mask;
        Ok(self)
    }

    /// The TDX modules that may run. By default any that Intel's TCB info accepts; the verdict shows which.
    #[must_use]
    pub fn with_mr_seam(mut self, modules: Expected) -> Self {
        self.mr_seam = modules;
        self
    }

    /// Accepts a TD that is bound to this service TD, which can then do to it what its kind allows.
    ///
    /// # Errors
    /// [`TdxPolicyError::NoServiceTd`].
    pub fn accepting_service_td(mut self, digest: Measurement) -> Result<Self, TdxPolicyError> {
        if digest == Measurement::from_bytes([0; 48]) {
            return Err(TdxPolicyError::NoServiceTd);
        }
        self.service_tds.push(digest);
        self.attributes |= attributes::SERVTD_EXT;
        Ok(self)
    }

    /// MRCONFIGID. By default zeros.
    #[must_use]
    pub fn with_mr_config_id(mut self, expected: Expected) -> Self {
        self.mr_config_id = expected;
        self
    }

    /// MROWNER. By default zeros.
    #[must_use]
    pub fn with_mr_owner(mut self, expected: Expected) -> Self {
        self.mr_owner = expected;
        self
    }

    /// MROWNERCONFIG. By default zeros.
    #[must_use]
    pub fn with_mr_owner_config(mut self, expected: Expected) -> Self {
        self.mr_owner_config = expected;
        self
    }

    /// Refuses platforms of this configuration. Every platform of several packages is dynamic and has cached keys, so
    /// none of the three is refused by default; the verdict shows them.
    #[must_use]
    pub fn refusing(mut self, flag: PlatformFlag) -> Self {
        self.refused_flags.push(flag);
        self
    }
}
