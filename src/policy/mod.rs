//! Who may do what. A signed bundle is opened once ([`PolicyBundle::open`]); [`decide()`] answers from it, and [`Budgets`]
//! counts what was used. Decisions and counters know no clock, no network and no file.

pub mod action;
pub mod budget;
pub mod bundle;
pub mod decide;
pub mod document;
pub mod excerpt;
pub mod guard;
pub mod name;
pub mod output;
pub mod principal;
pub mod shape;
pub mod source;

pub use action::{Action, UnknownAction};
pub use budget::{BudgetExceeded, Budgets, Charge, SharedBudgets, Slot};
pub use bundle::{ModelRef, PolicyBundle, PolicyError};
pub use decide::{ClientMachine, DecisionContext, Denied, Granted, decide};
pub use document::{Budget, MARK_EPOCH_MAX, POLICY_FORMAT, PolicyDocument, Team};
pub use guard::{
    Ceiling, Climb, GuardMode, GuardPolicy, LeakBudgets, Owner, TeamAllowance, Workload,
};
pub use name::{ModelName, NameError, RuleId, TeamName, WorkloadName};
pub use output::{OutputRules, Switch, Together};
pub use principal::{Principal, PrincipalError, PrincipalPattern};
pub use shape::{Profile, ShapeRule};
pub use source::{PolicySource, SourceError};

#[cfg(test)]
mod tests;
