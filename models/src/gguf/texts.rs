//! Many texts in one block of memory. A vocabulary and its merges are some 400,000 texts of a few bytes each: one by one
//! they would take ten times their length.

/// Texts, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    all: String,
    /// Where each ends.
    ends: Vec<u32>,
}

impl Texts {
    /// Room for `count` texts.
    pub(super) fn with_capacity(count: usize) -> Self {
        Self {
            all: String::new(),
            ends: Vec::with_capacity(count),
        }
    }

    /// Appends a text. False, and nothing appended, where all together would have 4 GiB.
    #[must_use]
    pub(super) fn push(&mut self, text: &str) -> bool {
        let Ok(end) = u32::try_from(self.all.len() + text.len()) else {
            return false;
        };
        self.all.push_str(text);
        self.ends.push(end);
        true
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// One of them.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = match index.checked_sub(1) {
            None => 0,
            Some(before) => *self.ends.get(before)?,
        };
        self.all.get(start as usize..end as usize)
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }

    /// Gives back memory that is not needed.
    pub(super) fn shrink(&mut self) {
        self.all.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_in_order() {
        let words = ["one", "", "zwei", "三", ""];
        let mut texts = Texts::with_capacity(words.len());
        assert!(words.iter().all(|word| texts.push(word)));
        assert_eq!(texts.len(), words.len());
        assert!(texts.iter().eq(words));
        assert_eq!(texts.get(2), Some("zwei"));
        assert_eq!(texts.get(5), None);
        assert!(Texts::default().is_empty());
    }
}
