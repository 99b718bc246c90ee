//! Keeps one attested connection ready: opens it when it is needed, attests again before its deadline, and opens another
//! after a loss. Whoever asks while it is being opened waits for the same attempt.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::{AttestedConnection, Connector};
use crate::error::ConnectError;

/// After a failure, callers within this time get the same answer instead of another attempt each.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);
/// Attest again when this much of a session's life is over, in percent.
const RENEW_AT_PERCENT: u32 = 80;

/// The one connection, and the way to another.
#[derive(Debug)]
pub struct Keeper {
    connector: Connector,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Arc<AttestedConnection>>,
    failure: Option<(Instant, Arc<ConnectError>)>,
}

impl Keeper {
    /// Keeps connections that `connector` makes. Nothing is opened yet.
    #[must_use]
    pub fn new(connector: Connector) -> Arc<Self> {
        Arc::new(Self {
            connector,
            state: Mutex::default(),
        })
    }

    /// Keeps `connection`, which `connector` made, and its successors.
    #[must_use]
    pub fn starting_with(connector: Connector, connection: AttestedConnection) -> Arc<Self> {
        let current = Arc::new(connection);
        let state = State {
            current: Some(current.clone()),
            failure: None,
        };
        let keeper = Arc::new(Self {
            connector,
            state: Mutex::new(state),
        });
        tokio::spawn(renew(Arc::downgrade(&keeper), current));
        keeper
    }

    /// How connections are made.
    #[must_use]
    pub const fn connector(&self) -> &Connector {
        &self.connector
    }

    /// A connection on which a request may leave now.
    ///
    /// # Errors
    /// The [`ConnectError`] of the attempt, shared by all who waited for it.
    pub async fn acquire(self: &Arc<Self>) -> Result<Arc<AttestedConnection>, Arc<ConnectError>> {
        let mut state = self.state.lock().await;
        if let Some(current) = state.current.as_ref().filter(|c| c.is_usable()) {
            return Ok(current.clone());
        }
        state.current = None;
        if let Some((when, error)) = &state.failure
            && when.elapsed() < FAILURE_HOLDS
        {
            return Err(error.clone());
        }
        match self.connector.attest().await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                state.current = Some(connection.clone());
                state.failure = None;
                tracing::info!(session = connection.session(), "session confirmed");
                tokio::spawn(renew(Arc::downgrade(self), connection.clone()));
                Ok(connection)
            }
            Err(error) => {
                tracing::warn!("no attested connection: {error}");
                let error = Arc::new(error);
                state.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Forgets `connection`, so that the next request opens another. Answers in progress on it go on.
    pub async fn drop_connection(&self, connection: &AttestedConnection) {
        let mut state = self.state.lock().await;
        if state
            .current
            .as_ref()
            .is_some_and(|c| c.is_same_connection(connection))
        {
            state.current = None;
        }
    }

    /// Takes the successor, unless the keeper has moved on to another connection.
    async fn replace(&self, successor: Arc<AttestedConnection>) -> bool {
        let mut state = self.state.lock().await;
        let ours = state
            .current
            .as_ref()
            .is_some_and(|c| c.is_same_connection(&successor));
        if ours {
            state.current = Some(successor);
        }
        ours
    }
}

/// Attests `connection` again and again while it is the keeper's.
async fn renew(keeper: Weak<Keeper>, mut connection: Arc<AttestedConnection>) {
    loop {
        tokio::time::sleep(connection.life() * RENEW_AT_PERCENT / 100).await;
        let Some(keeper) = keeper.upgrade() else {
            return;
        };
        match keeper.connector.attest_again(&connection).await {
            Ok(successor) => {
                connection = Arc::new(successor);
                if !keeper.replace(connection.clone()).await {
                    return;
                }
                tracing::info!(session = connection.session(), "session renewed");
            }
            Err(error) => {
                tracing::warn!("attesting again failed: {error}");
                if error.is_rejection() {
                    connection.condemn();
                }
                keeper.drop_connection(&connection).await;
                return;
            }
        }
    }
}
