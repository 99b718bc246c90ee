//! Who has which page of keys and values, and which pages hold a beginning that may come again.
//!
//! A page that is full is known by a digest of its tenant and of all tokens up to its end. A sequence of the same tenant
//! that begins with the same tokens takes it over instead of computing it. Another tenant's sequence has another digest:
//! nothing that one tenant computed is found by another. Pages that nobody uses are kept as long as there is room, the
//! least recently used goes first, and every page is wiped before it is given out again.

use std::collections::{BTreeMap, HashMap};

use casemate_kernels::KvPages;
use ring::digest::{Context, SHA256};

use super::Tenant;

/// The memory that pages stand in.
pub(crate) trait PageMemory {
    /// How many pages there are.
    fn len(&self) -> usize;

    /// Overwrites what a page holds.
    fn wipe(&mut self, page: u32);
}

impl PageMemory for KvPages {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn wipe(&mut self, page: u32) {
        Self::wipe(self, page);
    }
}

/// Names a beginning: a tenant and tokens.
pub(super) type Beginning = [u8; 32];

/// The beginning without tokens.
pub(super) fn root(tenant: Tenant) -> Beginning {
    digest(b"casemate/prefix/v1", &tenant.0, &[])
}

/// The beginning that goes on with a page's tokens.
pub(super) fn next(before: &Beginning, tokens: &[u32]) -> Beginning {
    digest(b"casemate/prefix/page/v1", before, tokens)
}

fn digest(label: &[u8], before: &[u8; 32], tokens: &[u32]) -> Beginning {
    let mut context = Context::new(&SHA256);
    context.update(label);
    context.update(before);
    for token in tokens {
        context.update(&token.to_le_bytes());
    }
    let mut found = [0; 32];
    found.copy_from_slice(context.finish().as_ref());
    found
}

/// What is known of a page.
#[derive(Clone, Default)]
struct Page {
    /// Sequences that use it.
    users: u32,
    /// What it holds, if it is full and may be found.
    holds: Option<Beginning>,
    /// When it was last used, if nobody uses it now and it is kept.
    kept_since: Option<u64>,
}

/// All pages.
pub(super) struct Pages<M: PageMemory> {
    pub(super) memory: M,
    pages: Vec<Page>,
    free: Vec<u32>,
    known: HashMap<Beginning, u32>,
    /// Pages that nobody uses, the least recently used first.
    kept: BTreeMap<u64, u32>,
    clock: u64,
}

impl<M: PageMemory> Pages<M> {
    pub(super) fn new(memory: M) -> Self {
        let count = memory.len();
        Self {
            memory,
            pages: vec![Page::default(); count],
            free: (0..count as u32).rev().collect(),
            known: HashMap::new(),
            kept: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Pages that can be had.
    pub(super) fn free(&self) -> usize {
        self.free.len() + self.kept.len()
    }

    /// An empty page.
    pub(super) fn take(&mut self) -> Option<u32> {
        let page = match self.free.pop() {
            Some(page) => page,
            None => self.drop_oldest()?,
        };
        self.pages.get_mut(page as usize)?.users = 1;
        Some(page)
    }

    /// The page that holds a beginning, if there is one; it has a user more then.
    pub(super) fn find(&mut self, beginning: &Beginning) -> Option<u32> {
        let index = *self.known.get(beginning)?;
        let page = self.pages.get_mut(index as usize)?;
        page.users += 1;
        if let Some(since) = page.kept_since.take() {
            self.kept.remove(&since);
        }
        Some(index)
    }

    /// Says what a full page holds. Of two that hold the same one is found.
    pub(super) fn publish(&mut self, index: u32, beginning: Beginning) {
        if let Some(page) = self.pages.get_mut(index as usize)
            && page.holds.is_none()
            && !self.known.contains_key(&beginning)
        {
            page.holds = Some(beginning);
            self.known.insert(beginning, index);
        }
    }

    /// Takes a user away. The page is kept if it may be found again, and wiped if not.
    pub(super) fn release(&mut self, index: u32) {
        let Some(page) = self.pages.get_mut(index as usize) else {
            return;
        };
        page.users = page.users.saturating_sub(1);
        if page.users > 0 {
            return;
        }
        if page.holds.is_some() {
            self.clock += 1;
            page.kept_since = Some(self.clock);
            self.kept.insert(self.clock, index);
        } else {
            self.memory.wipe(index);
            self.free.push(index);
        }
    }

    /// Wipes all that nobody uses.
    pub(super) fn forget(&mut self) {
        while let Some(page) = self.drop_oldest() {
            self.free.push(page);
        }
    }

    /// Wipes all that is in use or kept.
    fn wipe_all(&mut self) {
        for (index, page) in self.pages.iter().enumerate() {
            if page.users > 0 || page.holds.is_some() {
                self.memory.wipe(index as u32);
            }
        }
    }

    fn drop_oldest(&mut self) -> Option<u32> {
        let (_, index) = self.kept.pop_first()?;
        let page = self.pages.get_mut(index as usize)?;
        page.kept_since = None;
        if let Some(beginning) = page.holds.take() {
            self.known.remove(&beginning);
        }
        self.memory.wipe(index);
        Some(index)
    }
}

impl<M: PageMemory> Drop for Pages<M> {
    fn drop(&mut self) {
        self.wipe_all();
    }
}
