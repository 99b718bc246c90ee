//! What a caller can have learnt, in bits, by principal, team, organisation and model: text costs its surprise, about a bit for
//! each token, five probabilities beside it 36 (GUARD, "Leak budget"). The engine says what tokens tell; here it is added up.
//! Pure counters; connections, keys and time play no part.
//!
//! Accounts have a settled part, which a [ledger](crate::sentry::Ledger) holds, and a fresh part, which it does not hold yet.

use std::collections::HashMap;
use std::sync::Arc;

use casemate_attestation::Sha256Digest;
use casemate_models::engine::Learnt;
use casemate_models::engine::learnt::TOKEN_MILLIBITS_MIN;
use serde::{Deserialize, Serialize};

/// A probability is told in steps of a tenth of a nat down to -15: log2(1 + 15 / 0.1) bits.
const TOLD_MILLIBITS: u64 = 7238;

/// The most accounts. One more is refused: what is not counted is not given.
const ACCOUNTS_MAX: usize = 65_536;

/// What was given to somebody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// All of it, in thousandths of a bit.
    pub millibits: u64,
    /// The part that probabilities beside tokens told.
    pub told_millibits: u64,
    /// The part of tokens whose choice the caller had arranged, by a bias or penalties.
    #[serde(default)]
    pub arranged_millibits: u64,
    /// Tokens of answers.
    pub tokens: u64,
    /// Places in a text of which probabilities were told. Each is a context; one that comes again is counted again.
    pub contexts: u64,
}

impl Tally {
    /// So many tokens, and what the engine says that they tell: none of them less than the least.
    #[must_use]
    pub fn of_tokens(tokens: u64, learnt: Learnt) -> Self {
        let least = tokens.saturating_mul(TOKEN_MILLIBITS_MIN.into());
        Self {
            millibits: learnt.millibits.max(least),
            arranged_millibits: learnt.arranged_millibits,
            tokens,
            ..Self::default()
        }
    }

    /// The same, with so many `numbers` told beside them at `places` of the text.
    #[must_use]
    pub fn telling(self, places: usize, numbers: usize) -> Self {
        let told_millibits = (numbers as u64).saturating_mul(TOLD_MILLIBITS);
        self.plus(Self {
            millibits: told_millibits,
            told_millibits,
            contexts: places as u64,
            ..Self::default()
        })
    }

    /// Both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            millibits: self.millibits.saturating_add(other.millibits),
            told_millibits: self.told_millibits.saturating_add(other.told_millibits),
            arranged_millibits: self
                .arranged_millibits
                .saturating_add(other.arranged_millibits),
            tokens: self.tokens.saturating_add(other.tokens),
            contexts: self.contexts.saturating_add(other.contexts),
        }
    }

    /// The larger of each.
    #[must_use]
    pub fn at_least(self, other: Self) -> Self {
        Self {
            millibits: self.millibits.max(other.millibits),
            told_millibits: self.told_millibits.max(other.told_millibits),
            arranged_millibits: self.arranged_millibits.max(other.arranged_millibits),
            tokens: self.tokens.max(other.tokens),
            contexts: self.contexts.max(other.contexts),
        }
    }

    const fn wanted(&self) -> Wants {
        Wants {
            told: self.told_millibits > 0,
            arranged: self.arranged_millibits > 0,
        }
    }

    /// Whether nothing was given.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Whose account, as a word of ledgers and reports: `organisation`, `team/<name>` or `principal/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder(Arc<str>);

impl Holder {
    /// Everybody together.
    #[must_use]
    pub fn organisation() -> Self {
        Self("organisation".into())
    }

    /// All members of a team.
    #[must_use]
    pub fn team(name: &str) -> Self {
        Self(format!("team/{name}").into())
    }

    /// One principal.
    #[must_use]
    pub fn principal(name: &str) -> Self {
        Self(format!("principal/{name}").into())
    }

    /// Reads a word of a ledger; nothing else is a holder.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        let named = |kind: &str| word.strip_prefix(kind).is_some_and(|name| !name.is_empty());
        let known = word == "organisation" || named("team/") || named("principal/");
        known.then(|| Self(word.into()))
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a caller may read of it: whose budget, and no name but the own team's.
    #[must_use]
    pub fn spoken(&self) -> &'static str {
        match self.0.split('/').next() {
            Some("team") => "the team",
            Some("principal") => "this principal",
            _ => "the organisation",
        }
    }
}

/// What somebody may be given of one model, in all. Nothing written, nothing forbidden: it is counted all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    /// Bits of everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<u64>,
    /// Bits of probabilities beside tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_bits: Option<u64>,
    /// Bits of tokens whose choice the caller arranged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arranged_bits: Option<u64>,
}

/// What a request wants beside text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wants {
    /// Probabilities beside tokens.
    pub told: bool,
    /// Choices that it arranges.
    pub arranged: bool,
}

impl Allowance {
    /// What holds for everybody together where policy says nothing: of probabilities a bit for each entry of the square of a
    /// model's width, below which even a test of its rank has nothing to work with; of arranged choices an eighth of that,
    /// because the best attack that is known gets an entry out of 3.7 of them (Carlini et al. 2024), so that it stays below a
    /// twentieth.
    #[must_use]
    pub fn within_a_lifetime(self, width: usize) -> Self {
        let square = (width as u64).saturating_mul(width as u64);
        Self {
            told_bits: self.told_bits.or(Some(square)),
            arranged_bits: self.arranged_bits.or(Some(square / 8)),
            ..self
        }
    }

    fn spent_by(&self, tally: &Tally, wants: Wants) -> bool {
        let over = |limit: Option<u64>, used: u64| {
            limit.is_some_and(|bits| used >= bits.saturating_mul(1000))
        };
        over(self.bits, tally.millibits)
            || (wants.told && over(self.told_bits, tally.told_millibits))
            || (wants.arranged && over(self.arranged_bits, tally.arranged_millibits))
    }
}

/// Why nothing more is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeterError {
    /// An allowance is used up.
    #[error("{} has been given what it may of this model", .0.spoken())]
    Spent(Holder),
    /// No room for another account.
    #[error("too many principals are counted")]
    Full,
}

/// The three accounts that one request is charged to, and what they may hold.
#[derive(Debug, Clone)]
pub struct Accounts {
    model: Sha256Digest,
    holders: [(Holder, Allowance); 3],
}

impl Accounts {
    /// Accounts of a principal, its team and everybody, for one model.
    #[must_use]
    pub fn new(
        model: Sha256Digest,
        principal: &str,
        team: &str,
        [each, shared, all]: [Allowance; 3],
    ) -> Self {
        Self {
            model,
            holders: [
                (Holder::principal(principal), each),
                (Holder::team(team), shared),
                (Holder::organisation(), all),
            ],
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    settled: Tally,
    fresh: Tally,
}

impl Account {
    const fn all(&self) -> Tally {
        self.settled.plus(self.fresh)
    }
}

/// One row: whose account, of which model.
pub type AccountId = (Holder, Sha256Digest);

/// All accounts.
#[derive(Debug, Default)]
pub struct Meter {
    accounts: HashMap<AccountId, Account>,
    /// What teams had been given when accounts were lost: where their members begin who have no account.
    floors: HashMap<AccountId, Tally>,
}

impl Meter {
    /// Begins with what a ledger holds. `floors` are what teams had been given when accounts were lost, if ever: a principal
    /// without an account is taken to have had all of it, which is the most that it can have had.
    #[must_use]
    pub fn of_rows(
        rows: impl IntoIterator<Item = (AccountId, Tally)>,
        floors: impl IntoIterator<Item = (AccountId, Tally)>,
    ) -> Self {
        let account = |(id, settled)| {
            let fresh = Tally::default();
            (id, Account { settled, fresh })
        };
        Self {
            accounts: rows.into_iter().map(account).collect(),
            floors: floors.into_iter().collect(),
        }
    }

    /// Whether one more token may be given to a request that wants this.
    ///
    /// # Errors
    /// [`MeterError`].
    pub fn room(&mut self, accounts: &Accounts, wants: Wants) -> Result<(), MeterError> {
        self.open(accounts)?;
        for (holder, allowance) in &accounts.holders {
            let used = self.used(holder, accounts.model);
            if allowance.spent_by(&used, wants) {
                return Err(MeterError::Spent(holder.clone()));
            }
        }
        Ok(())
    }

    /// Adds what was given to all three accounts. An error says that it was the last.
    ///
    /// # Errors
    /// [`MeterError::Spent`], after it was counted.
    pub fn charge(&mut self, accounts: &Accounts, tally: Tally) -> Result<(), MeterError> {
        let mut spent = None;
        for (holder, allowance) in &accounts.holders {
            let id = (holder.clone(), accounts.model);
            // An account that `room` opened; without it the ledger still gets the sum.
            let account = self.accounts.entry(id).or_default();
            account.fresh = account.fresh.plus(tally);
            if allowance.spent_by(&account.all(), tally.wanted()) {
                spent = spent.or_else(|| Some(holder.clone()));
            }
        }
        spent.map_or(Ok(()), |holder| Err(MeterError::Spent(holder)))
    }

    /// What somebody was given of a model.
    #[must_use]
    pub fn used(&self, holder: &Holder, model: Sha256Digest) -> Tally {
        let account = self.accounts.get(&(holder.clone(), model));
        account.map(Account::all).unwrap_or_default()
    }

    /// Every account with what it was given.
    pub fn all(&self) -> impl Iterator<Item = (&AccountId, Tally)> {
        self.accounts
            .iter()
            .map(|(id, account)| (id, account.all()))
    }

    /// What the ledger does not hold yet.
    #[must_use]
    pub fn fresh(&self) -> Vec<(AccountId, Tally)> {
        let fresh = self
            .accounts
            .iter()
            .filter(|(_, account)| !account.fresh.is_nothing());
        fresh
            .map(|(id, account)| (id.clone(), account.fresh))
            .collect()
    }

    /// Takes over what the ledger holds now, in which `added` is: other servers may have added to it too.
    pub fn settle(&mut self, id: &AccountId, added: Tally, total: Tally) {
        if let Some(account) = self.accounts.get_mut(id) {
            account.fresh = Tally {
                millibits: account.fresh.millibits.saturating_sub(added.millibits),
                told_millibits: account
                    .fresh
                    .told_millibits
                    .saturating_sub(added.told_millibits),
                arranged_millibits: account
                    .fresh
                    .arranged_millibits
                    .saturating_sub(added.arranged_millibits),
                tokens: account.fresh.tokens.saturating_sub(added.tokens),
                contexts: account.fresh.contexts.saturating_sub(added.contexts),
            };
            account.settled = total;
        }
    }

    fn open(&mut self, accounts: &Accounts) -> Result<(), MeterError> {
        let [(_, _), (team, _), _] = &accounts.holders;
        let floor = self.floors.get(&(team.clone(), accounts.model)).copied();
        for (holder, _) in &accounts.holders {
            let id = (holder.clone(), accounts.model);
            if self.accounts.contains_key(&id) {
                continue;
            }
            if self.accounts.len() >= ACCOUNTS_MAX {
                return Err(MeterError::Full);
            }
            let mut account = Account::default();
            if holder.as_str().starts_with("principal/") {
                account.fresh = floor.unwrap_or_default();
            }
            self.accounts.insert(id, account);
        }
        Ok(())
    }
}

#[cfg(test)]
impl Tally {
    /// So many tokens of a bit each.
    pub(crate) fn of_text(tokens: u64) -> Self {
        let learnt = Learnt {
            millibits: tokens * 1000,
            arranged_millibits: 0,
        };
        Self::of_tokens(tokens, learnt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> Sha256Digest {
        Sha256Digest::of(name.as_bytes())
    }

    fn bits(bits: u64) -> Allowance {
        Allowance {
            bits: Some(bits),
            ..FREE
        }
    }

    fn accounts(who: &str, allowances: [Allowance; 3]) -> Accounts {
        Accounts::new(model("m"), who, "writers", allowances)
    }

    const FREE: Allowance = Allowance {
        bits: None,
        told_bits: None,
        arranged_bits: None,
    };
    const TEXT: Wants = Wants {
        told: false,
        arranged: false,
    };
    const TOLD: Wants = Wants {
        told: true,
        arranged: false,
    };

    #[test]
    fn five_probabilities_cost_thirty_six_bits_beside_what_their_token_tells() {
        let learnt = Learnt {
            millibits: 721,
            arranged_millibits: 0,
        };
        let told = Tally::of_tokens(1, learnt).telling(1, 5);
        assert_eq!((told.told_millibits, told.contexts), (36_190, 1));
        assert_eq!((told.millibits, told.tokens), (36_190 + 721, 1));
        let silent = Tally::of_tokens(10, Learnt::default());
        assert_eq!(silent.millibits, 500, "no token is free");
    }

    #[test]
    fn g3_arranged_choices_end_before_a_twentieth_of_the_block_whatever_the_width() {
        for width in [16, 64, 576, 4096, 16_384_usize] {
            let allowance = Allowance::default().within_a_lifetime(width);
            let block = ((width + 1) * (width + 1)) as f64;
            let choices = allowance.arranged_bits.unwrap() as f64;
            assert!(choices / 3.7 < block / 20.0, "{width}");
            assert_eq!(allowance.told_bits, Some((width * width) as u64));
        }
        let said = Allowance {
            told_bits: Some(7),
            arranged_bits: Some(8),
            bits: None,
        };
        assert_eq!(said.within_a_lifetime(4096), said, "policy has the word");
    }

    #[test]
    fn arranged_choices_have_a_limit_of_their_own() {
        let few = Allowance {
            arranged_bits: Some(2),
            ..FREE
        };
        let (mut meter, ada) = (Meter::default(), accounts("ada", [FREE, FREE, few]));
        let arranged = Learnt {
            millibits: 1000,
            arranged_millibits: 1000,
        };
        let choice = Tally::of_tokens(1, arranged);
        let asks = Wants {
            arranged: true,
            told: false,
        };
        meter.room(&ada, asks).unwrap();
        meter.charge(&ada, choice).unwrap();
        assert!(meter.charge(&ada, choice).is_err());
        assert!(meter.room(&ada, asks).is_err());
        assert_eq!(meter.room(&ada, TEXT), Ok(()));
        assert_eq!(meter.charge(&ada, Tally::of_text(9)), Ok(()));
    }

    #[test]
    fn each_of_the_three_accounts_can_be_the_one_that_is_spent() {
        for (at, holder) in ["principal/ada", "team/writers", "organisation"]
            .into_iter()
            .enumerate()
        {
            let mut allowances = [FREE; 3];
            allowances[at] = bits(10);
            let (mut meter, ada) = (Meter::default(), accounts("ada", allowances));
            meter.room(&ada, TEXT).unwrap();
            meter.charge(&ada, Tally::of_text(9)).unwrap();
            meter.room(&ada, TEXT).unwrap();
            let spent = Err(MeterError::Spent(Holder::of_word(holder).unwrap()));
            assert_eq!(meter.charge(&ada, Tally::of_text(1)), spent);
            assert_eq!(meter.room(&ada, TEXT), spent);
            let mut other = ada.clone();
            other.model = model("another");
            assert_eq!(
                meter.room(&other, TEXT),
                Ok(()),
                "another model is another blueprint"
            );
        }
    }

    #[test]
    fn told_bits_have_a_limit_of_their_own_that_text_does_not_meet() {
        let told = Allowance {
            told_bits: Some(30),
            ..FREE
        };
        let (mut meter, ada) = (Meter::default(), accounts("ada", [FREE, FREE, told]));
        meter.room(&ada, TOLD).unwrap();
        assert!(meter.charge(&ada, Tally::of_text(1).telling(1, 5)).is_err());
        assert!(meter.room(&ada, TOLD).is_err());
        assert_eq!(meter.room(&ada, TEXT), Ok(()));
        assert_eq!(meter.charge(&ada, Tally::of_text(1000)), Ok(()));
    }

    #[test]
    fn s07_members_share_their_teams_account_and_a_new_name_has_nothing_of_its_own() {
        let allowances = [bits(50), bits(100), FREE];
        let mut meter = Meter::default();
        for who in ["ada", "bob"] {
            let who = accounts(who, allowances);
            meter.room(&who, TEXT).unwrap();
            let _last = meter.charge(&who, Tally::of_text(50));
        }
        let cleo = accounts("cleo", allowances);
        assert_eq!(
            meter.room(&cleo, TEXT),
            Err(MeterError::Spent(Holder::team("writers")))
        );
    }

    #[test]
    fn what_is_settled_is_not_given_to_the_ledger_twice() {
        let (mut meter, ada) = (Meter::default(), accounts("ada", [FREE; 3]));
        meter.room(&ada, TEXT).unwrap();
        meter.charge(&ada, Tally::of_text(5)).unwrap();
        let fresh = meter.fresh();
        assert_eq!(fresh.len(), 3);
        meter.charge(&ada, Tally::of_text(2)).unwrap();
        for (id, added) in fresh {
            // The ledger had nine more from another server.
            meter.settle(&id, added, added.plus(Tally::of_text(9)));
        }
        assert!(meter.fresh().iter().all(|(_, fresh)| fresh.tokens == 2));
        assert_eq!(meter.used(&Holder::organisation(), model("m")).tokens, 16);
    }

    #[test]
    fn s24_who_is_not_known_after_a_loss_stands_where_the_team_stands() {
        let team = (Holder::team("writers"), model("m"));
        let rows = || [(team.clone(), Tally::of_text(60))];
        let ada = accounts("ada", [bits(50), bits(1000), FREE]);
        assert_eq!(Meter::of_rows(rows(), []).room(&ada, TEXT), Ok(()));
        let lost = Meter::of_rows(rows(), rows()).room(&ada, TEXT);
        assert_eq!(lost, Err(MeterError::Spent(Holder::principal("ada"))));
    }

    #[test]
    fn accounts_are_bounded_and_words_of_holders_are_known() {
        let mut meter = Meter::default();
        for n in 0..ACCOUNTS_MAX - 2 {
            meter
                .room(&accounts(&format!("p{n}"), [FREE; 3]), TEXT)
                .unwrap();
        }
        assert_eq!(
            meter.room(&accounts("one more", [FREE; 3]), TEXT),
            Err(MeterError::Full)
        );
        assert_eq!(meter.room(&accounts("p1", [FREE; 3]), TEXT), Ok(()));
        for word in ["", "team/", "principal/", "everybody", "Team/a"] {
            assert_eq!(Holder::of_word(word), None, "{word}");
        }
    }
}
