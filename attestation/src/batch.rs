//! One hardware report for many sessions (rule P-24): a Merkle tree over bindings, and each session's path.
//!
//! Leaves, inner nodes and the report's own value carry different labels, so that none can stand for another.

use serde::{Deserialize, Serialize};

use crate::binding::Binding;
use crate::digest::hex_array;
use crate::framing::sha512;

/// The most sessions that one report may serve.
pub const BATCH_LEAVES_MAX: usize = 65_536;

const REPORT_LABEL: &str = "casemate/batch/v1";
const LEAF_LABEL: &str = "casemate/batch-leaf/v1";
const NODE_LABEL: &str = "casemate/batch-node/v1";

type Node = [u8; 64];

/// Why a batch or a path was refused (rule P-24).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A batch serves at least one session.
    #[error("batch has no bindings")]
    Empty,
    /// More leaves than [`BATCH_LEAVES_MAX`].
    #[error("batch has {0} leaves, more than 65536")]
    TooManyLeaves(usize),
    /// The leaf's number lies outside the tree.
    #[error("batch index {index} is not below the number of leaves {leaves}")]
    IndexOutside {
        /// The index found.
        index: u32,
        /// The leaves found.
        leaves: u32,
    },
    /// Index and number of leaves call for another number of siblings.
    #[error("batch path has {found} siblings where index and leaves ask for {expected}")]
    PathLength {
        /// Siblings in the path.
        found: usize,
        /// Siblings that the tree has.
        expected: usize,
    },
    /// A sibling is not 64 bytes of lower-case hexadecimal.
    #[error("batch path has a sibling that is not 64 bytes of lower-case hexadecimal")]
    SiblingMalformed,
}

/// A tree over the bindings of several sessions.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Levels from the leaves up; the last holds the root alone. Never empty.
    levels: Vec<Vec<Node>>,
    leaves: u32,
}

impl Batch {
    /// Builds the tree. Order is kept: `path(i)` belongs to `bindings[i]`.
    ///
    /// # Errors
    /// [`BatchError::Empty`] and [`BatchError::TooManyLeaves`].
    pub fn new(bindings: &[Binding]) -> Result<Self, BatchError> {
        if bindings.is_empty() {
            return Err(BatchError::Empty);
        }
        let leaves = leaf_count(bindings.len())?;
        let mut level: Vec<Node> = bindings.iter().map(leaf).collect();
        let mut levels = Vec::new();
        while level.len() > 1 {
            let next = level.chunks(2).filter_map(parent).collect();
            levels.push(std::mem::replace(&mut level, next));
        }
        levels.push(level);
        Ok(Self { levels, leaves })
    }

    /// REPORT_DATA for the one report that serves them all.
    #[must_use]
    pub fn report_data(&self) -> [u8; 64] {
        let root = self.levels.last().and_then(|level| level.first());
        sha512(
            REPORT_LABEL,
            &[root.map_or(&[][..], |node| node.as_slice())],
        )
    }

    /// The path of the binding at `index`, or `None` outside the batch.
    #[must_use]
    pub fn path(&self, index: usize) -> Option<BatchPath> {
        let number = u32::try_from(index)
            .ok()
            .filter(|number| *number < self.leaves)?;
        let mut siblings = Vec::new();
        let mut position = index;
        for level in &self.levels {
            siblings.extend(level.get(position ^ 1).filter(|_| level.len() > 1));
            position /= 2;
        }
        Some(BatchPath {
            index: number,
            leaves: self.leaves,
            path: siblings,
        })
    }
}

/// One session's way from its leaf to the root. Its shape was checked when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WirePath", into = "WirePath")]
pub struct BatchPath {
    index: u32,
    leaves: u32,
    path: Vec<Node>,
}

impl BatchPath {
    /// REPORT_DATA of the report that serves `binding` by this path.
    #[must_use]
    pub fn report_data(&self, binding: &Binding) -> [u8; 64] {
        let mut node = leaf(binding);
        let mut siblings = self.path.iter();
        for step in steps(self.index, self.leaves) {
            let sibling = if step == Step::Alone {
                None
            } else {
                siblings.next()
            };
            node = match (step, sibling) {
                (Step::Left, Some(sibling)) => inner(sibling, &node),
                (Step::Right, Some(sibling)) => inner(&node, sibling),
                (Step::Alone, _) | (_, None) => node,
            };
        }
        sha512(REPORT_LABEL, &[&node])
    }

    /// Which leaf it is.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// How many sessions the report serves.
    #[must_use]
    pub const fn leaves(&self) -> u32 {
        self.leaves
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WirePath {
    index: u32,
    leaves: u32,
    path: Vec<String>,
}

impl From<BatchPath> for WirePath {
    fn from(path: BatchPath) -> Self {
        let siblings = path.path.iter().map(hex::encode).collect();
        Self {
            index: path.index,
            leaves: path.leaves,
            path: siblings,
        }
    }
}

impl TryFrom<WirePath> for BatchPath {
    type Error = BatchError;

    fn try_from(wire: WirePath) -> Result<Self, BatchError> {
        leaf_count(usize::try_from(wire.leaves).unwrap_or(usize::MAX))?;
        if wire.index >= wire.leaves {
            return Err(BatchError::IndexOutside {
                index: wire.index,
                leaves: wire.leaves,
            });
        }
        let expected = steps(wire.index, wire.leaves)
            .filter(|step| *step != Step::Alone)
            .count();
        if wire.path.len() != expected {
            return Err(BatchError::PathLength {
                found: wire.path.len(),
                expected,
            });
        }
        let siblings = wire.path.iter().map(|text| hex_array("sibling", text));
        let path = siblings
            .collect::<Result<_, _>>()
            .map_err(|_| BatchError::SiblingMalformed)?;
        Ok(Self {
            index: wire.index,
            leaves: wire.leaves,
            path,
        })
    }
}

/// On which side the sibling stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Left,
    Right,
    Alone,
}

/// The way from leaf `index` of `leaves` to the root.
fn steps(index: u32, leaves: u32) -> impl Iterator<Item = Step> {
    let mut state = (index, leaves);
    std::iter::from_fn(move || {
        let (position, width) = state;
        if width <= 1 {
            return None;
        }
        state = (position / 2, width.div_ceil(2));
        Some(match (position % 2, position + 1 < width) {
            (1, _) => Step::Left,
            (_, true) => Step::Right,
            (_, false) => Step::Alone,
        })
    })
}

fn leaf_count(count: usize) -> Result<u32, BatchError> {
    match u32::try_from(count) {
        Ok(leaves) if count <= BATCH_LEAVES_MAX => Ok(leaves),
        _ => Err(BatchError::TooManyLeaves(count)),
    }
}

fn leaf(binding: &Binding) -> Node {
    sha512(LEAF_LABEL, &[binding.as_bytes()])
}

fn inner(left: &Node, right: &Node) -> Node {
    sha512(NODE_LABEL, &[left, right])
}

fn parent(pair: &[Node]) -> Option<Node> {
    match pair {
        [left, right] => Some(inner(left, right)),
        [alone] => Some(*alone),
        _ => None,
    }
}
