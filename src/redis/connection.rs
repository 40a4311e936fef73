//! Connections to Redis: the address, a pool for the admin API, the CLI and the samplers, and a [`Link`] per
//! worker that reconnects by itself.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::{Manager, Pool, Runtime};
pub use redis::Pipeline;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, Value};

use super::keys::Keys;
use super::scripts;
use crate::domain::sealing::Keyring;
use crate::settings::redis::RedisSettings;

/// Connections of the pool that the admin API, the CLI and the samplers share.
const POOL_SIZE: usize = 16;

/// Longest wait for TCP, TLS and the greeting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A failed operation on Redis: what was done, and what Redis or the network said.
#[derive(Debug, thiserror::Error)]
#[error("redis: {operation}: {cause}")]
pub struct RedisError {
    /// What was being done, as a gerund with the key's noun.
    pub operation: &'static str,
    /// What went wrong.
    #[source]
    pub cause: Cause,
}

/// What went wrong with an operation.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The client or the server said so.
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    /// No connection could be had from the pool.
    #[error("no connection: {0}")]
    Pool(String),
    /// The answer has another shape than the command's documentation says.
    #[error("unexpected answer: {0}")]
    Answer(String),
    /// A setting cannot be used.
    #[error("{0}")]
    Setting(String),
}

/// Shorthand of this room.
pub type Result<T> = std::result::Result<T, RedisError>;

/// One Redis and one namespace in it. Cheap to clone.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    pool: Pool,
    keys: Arc<Keys>,
    keyring: Arc<Keyring>,
    response_timeout: Duration,
}

/// A worker's own connection: multiplexed, not shared with other threads, reconnected on the next use after
/// an error of the connection.
pub struct Link {
    redis: Redis,
    connection: RefCell<Option<MultiplexedConnection>>,
    response_timeout: Option<Duration>,
    /// Of a link for blocking reads: its connection's number at the server, with which another link ends a read.
    client: Option<Cell<i64>>,
}

// === impl RedisError ===

impl RedisError {
    /// Wraps a cause.
    pub fn new(operation: &'static str, cause: impl Into<Cause>) -> Self {
        Self { operation, cause: cause.into() }
    }

    /// An answer of another shape than documented.
    pub fn answer(operation: &'static str, what: impl Into<String>) -> Self {
        Self { operation, cause: Cause::Answer(what.into()) }
    }

    /// The error's first word as Redis writes it (`NOGROUP`, `OOM`, `READONLY`...), if the server said it.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match &self.cause {
            Cause::Redis(error) => error.code(),
            _ => None,
        }
    }

    /// Whether the connection or the server's state, not the command, is at fault: other commands fail too.
    #[must_use]
    pub fn is_of_server(&self) -> bool {
        self.is_connection() || self.code().is_some_and(|code| OF_SERVER.contains(&code))
    }

    /// Whether the connection, not the command, is at fault.
    #[must_use]
    pub fn is_connection(&self) -> bool {
        match &self.cause {
            Cause::Redis(error) => breaks_connection(error),
            Cause::Pool(_) => true,
            _ => false,
        }
    }
}

/// Errors that say something of the server's state, not of the command.
const OF_SERVER: [&str; 9] =
    ["OOM", "MISCONF", "NOREPLICAS", "BUSY", "CLUSTERDOWN", "TRYAGAIN", "NOAUTH", "WRONGPASS", "EXECABORT"];

/// Whether a connection is of no further use after `error`: the network failed, an answer is overdue (later
/// answers would be taken for those of other commands), the server is no longer a writable primary, or it forgot
/// the scripts (SCRIPT FLUSH, a failover), which are loaded when a connection is made.
fn breaks_connection(error: &redis::RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || matches!(error.kind(), ErrorKind::Parse)
        // NOSCRIPT: a new connection loads the scripts, which a flush or a change of servers has dropped.
        || matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN" | "NOSCRIPT"))
}

/// An empty pipeline: this room makes it, others fill it with this room's commands.
#[must_use]
pub fn new_pipeline() -> Pipeline {
    redis::pipe()
}

/// Adds the operation to a client error.
pub(crate) trait During<T> {
    /// Names what was being done.
    fn during(self, operation: &'static str) -> Result<T>;
}

impl<T> During<T> for std::result::Result<T, redis::RedisError> {
    fn during(self, operation: &'static str) -> Result<T> {
        self.map_err(|error| RedisError::new(operation, error))
    }
}

// === impl Redis ===

impl Redis {
    /// Prepares connections to `url`; nothing is connected yet.
    ///
    /// # Errors
    /// When the URL or the namespace cannot be used.
    pub fn new(url: &str, settings: &RedisSettings) -> Result<Self> {
        let operation = "preparing connections";
        let setting = |what: String| RedisError { operation, cause: Cause::Setting(what) };
        if url.starts_with("redis+sentinel://") || url.starts_with("redis+cluster://") {
            return Err(setting(
                "redis-url: Sentinel and Cluster are not supported yet; use redis://, rediss:// or unix://"
                    .into(),
            ));
        }
        let keys = Keys::new(&settings.namespace)
            .ok_or_else(|| setting("namespace: expected 1 to 64 of A-Z a-z 0-9 _ . -".into()))?;
        // CLIENT SETINFO is of no use here, and a user with few rights would be refused at each connection.
        let address = url.into_connection_info().during(operation)?;
        let bare = address.redis_settings().clone().set_skip_set_lib_name();
        let address = address.set_redis_settings(bare);
        let client = Client::open(address.clone()).during(operation)?;
        // The client's own default is 500 ms, shorter than a full Redis may take.
        let pool_config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(settings.response_timeout));
        let manager = Manager::new_with_config(address, pool_config).during(operation)?;
        let pool = Pool::builder(manager)
            .max_size(POOL_SIZE)
            .wait_timeout(Some(settings.response_timeout))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .recycle_timeout(Some(settings.response_timeout))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| setting(error.to_string()))?;
        let (keyring, response_timeout) = (settings.keyring(), settings.response_timeout);
        Ok(Self { client, pool, keys: Arc::new(keys), keyring, response_timeout })
    }

    /// What seals and opens stored secrets.
    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Whether secrets are sealed before they are stored.
    #[must_use]
    pub fn seals_secrets(&self) -> bool {
        !self.keyring.is_empty()
    }

    /// The key names.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Longest wait for an answer to a command that does not block.
    pub(crate) const fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// A connection of the pool, for everything that is not a worker's.
    ///
    /// # Errors
    /// When none can be had.
    pub(crate) async fn pooled(&self, operation: &'static str) -> Result<deadpool_redis::Connection> {
        self.pool.get().await.map_err(|error| RedisError { operation, cause: Cause::Pool(error.to_string()) })
    }

    /// A new connection of its own. `response_timeout` of `None` waits without end: for blocking reads, whose
    /// caller keeps the time.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) async fn connect(&self, response_timeout: Option<Duration>) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(response_timeout);
        self.client.get_multiplexed_async_connection_with_config(&config).await.during("connecting")
    }

    /// A worker's link for commands that answer at once.
    #[must_use]
    pub fn link(&self) -> Link {
        Link {
            redis: self.clone(),
            connection: RefCell::new(None),
            response_timeout: Some(self.response_timeout),
            client: None,
        }
    }

    /// A worker's link for blocking reads.
    #[must_use]
    pub fn blocking_link(&self, longest_block: Duration) -> Link {
        Link {
            redis: self.clone(),
            connection: RefCell::new(None),
            response_timeout: Some(self.response_timeout + longest_block),
            client: Some(Cell::new(0)),
        }
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("keys", &self.keys).finish_non_exhaustive()
    }
}

// === impl Link ===

impl Link {
    /// The key names.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        self.redis.keys()
    }

    /// What seals and opens stored secrets.
    pub(crate) fn keyring(&self) -> &Keyring {
        self.redis.keyring()
    }

    /// Whether the next use goes out on a connection that is already there.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.borrow().is_some()
    }

    /// Drops the connection; the next use makes a new one.
    pub fn disconnect(&self) {
        self.connection.borrow_mut().take();
    }

    async fn connected(&self) -> Result<MultiplexedConnection> {
        if let Some(connection) = self.connection.borrow().as_ref() {
            return Ok(connection.clone());
        }
        let mut connection = self.redis.connect(self.response_timeout).await?;
        scripts::load_all(&mut connection).await?;
        if let Some(client) = &self.client {
            let mut command = redis::cmd("CLIENT");
            client.set(command.arg("ID").query_async(&mut connection).await.during("connecting")?);
        }
        *self.connection.borrow_mut() = Some(connection.clone());
        Ok(connection)
    }

    /// Sends one command.
    ///
    /// # Errors
    /// The command's error, or the connection's; the latter drops the connection.
    pub async fn query<T: FromRedisValue>(&self, operation: &'static str, command: &Cmd) -> Result<T> {
        let mut connection = self.connected().await?;
        // Loads the scripts again where they were flushed: a lease must not lapse for that.
        let answer = scripts::run(&mut connection, operation, command).await;
        self.judge(answer)
    }

    /// Sends a pipeline and gives each command's answer or error: one failed command hides no other's answer.
    ///
    /// # Errors
    /// The connection's error: then nothing is known of any command.
    pub async fn pipeline(&self, operation: &'static str, pipeline: &Pipeline) -> Result<Vec<Result<Value>>> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.connected().await?;
        let answers = connection.send_packed_commands(pipeline, 0, pipeline.len()).await;
        let answers = self.judge(answers.during(operation))?;
        let each =
            answers.into_iter().map(|value| self.judge(value.extract_error().during(operation))).collect();
        Ok(each)
    }

    /// Ends the blocking read that `blocked` waits in, as if its time were over: the read answers with nothing. One
    /// that has not begun to wait is not ended by it.
    ///
    /// # Errors
    /// Redis's.
    pub async fn unblock(&self, blocked: &Self) -> Result<()> {
        let Some(client) = blocked.client.as_ref().filter(|_| blocked.is_connected()) else { return Ok(()) };
        let mut command = redis::cmd("CLIENT");
        command.arg("UNBLOCK").arg(client.get()).arg("TIMEOUT");
        self.query::<i64>("ending a blocking read", &command).await.map(drop)
    }

    fn judge<T>(&self, answer: Result<T>) -> Result<T> {
        if let Err(error) = &answer
            && error.is_connection()
        {
            self.disconnect();
        }
        answer
    }
}
