//! One TOML file for each role: strict, without environment variables, paths relative to the file. What is in force, with
//! every default, has one digest; a server's binding carries it (P-20).

mod devices;
mod engine;
mod load;
mod server;

pub use devices::{DeviceSource, DevicesSection};
pub use engine::{CacheKind, EngineSection};
pub use load::{ConfigError, ConfigPath, Loaded, Role};
pub use server::{
    AttestationSection, AuditSection, BrokerSection, ClientDemand, ClientsSection, GuardSection,
    LimitsSection, ModelSection, ServerConfig, ServerSection, StateSection, TpmSection,
    TrustSection,
};

#[cfg(test)]
mod tests;
