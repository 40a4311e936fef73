//! The one table of settings: a row per field. The flags of the command line, the environment, the file's
//! keys and `postrider settings print` are all made from it, and a field without a row does not compile.

use super::admin::AdminSettings;
use super::delivery::DeliverySettings;
use super::health::HealthSettings;
use super::limits::LimitSettings;
use super::process::ProcessSettings;
use super::redis::RedisSettings;
use super::retention::RetentionSettings;
use super::{Settings, addresses, egress, keys, otlp, text, words};

/// One setting: its names, its text form, and why it exists.
pub struct Setting {
    /// The flag without `--`; also the key in the file's section.
    pub name: &'static str,
    /// The file's section.
    pub section: &'static str,
    /// The unit, for people.
    pub unit: &'static str,
    /// What a value's text has to be.
    pub expected: &'static str,
    /// Why it exists, and what its default is good for.
    pub reason: &'static str,
    /// Which commands take its flag.
    pub scope: Scope,
    /// How its flag is given.
    pub form: Form,
    /// The value as text; a password in it is masked.
    pub show: fn(&Settings) -> String,
    /// Takes a text; the error says what was wrong with it.
    pub take: fn(&mut Settings, &str) -> Result<(), String>,
}

/// Which commands take a setting's flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those that read every setting: `serve`, `settings print`.
    Serve,
    /// Also those that talk to Redis.
    Redis,
    /// Every command.
    Every,
}

/// How a flag is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `--name value`
    Value,
    /// `--name`, `--name=false`
    Switch,
    /// `--name value`, repeatable; a comma list elsewhere.
    List,
}

// === impl Setting ===

impl Setting {
    /// The row with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        TABLE.iter().find(|setting| setting.name == name)
    }

    /// The environment's variable: `POSTRIDER_` and the name in upper case with underscores.
    #[must_use]
    pub fn environment(&self) -> String {
        format!("POSTRIDER_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// The default as text.
    #[must_use]
    pub fn default_text(&self) -> String {
        (self.show)(&Settings::default())
    }
}

macro_rules! table {
    ($($section:ident: $type:ident {
        $($field:ident $name:literal $room:ident::$kind:ident $form:ident $scope:ident: $reason:literal;)*
    })*) => {
        /// Every setting, in the order of the sections.
        pub static TABLE: &[Setting] = &[$($(
            Setting {
                name: $name,
                section: stringify!($section),
                unit: $room::$kind::UNIT,
                expected: $room::$kind::EXPECTED,
                reason: $reason,
                scope: Scope::$scope,
                form: Form::$form,
                show: |settings| $room::$kind::show(&settings.$section.$field),
                take: |settings, text| {
                    settings.$section.$field = $room::$kind::parse(text)?;
                    Ok(())
                },
            },
        )*)*];

        // Names every field of every section, so that a field without a row is an error of the compiler.
        $(const _: fn(&$type) = |$type { $($field: _,)* }| ();)*
    };
}

table! {
    redis: RedisSettings {
        url "redis-url" words::redis_url Value Redis:
            "The one dependency. Without it, serve starts a private redis-server under data-dir and other commands use that one.";
        namespace "namespace" words::namespace Value Redis:
            "Prefix of every key, so that several installations can share one Redis.";
        shards "shards" text::count16 Value Redis:
            "Shards that a new keyspace gets; afterwards only checked. More than 1 is for Redis Cluster.";
        allow_eviction "allow-eviction" text::switch Switch Serve:
            "Starts although Redis may evict keys when full, which loses deliveries. Off, because noeviction is what keeps the promise.";
        response_timeout "redis-response-timeout" text::duration Value Redis:
            "Longest wait for an answer to a command that does not block; past it the connection is given up.";
        lease "lease" text::duration Value Serve:
            "How long a worker is taken for alive without a sign; its entries are taken over after two of these at most.";
        secret_key "secret-key" keys::list List Redis:
            "Seals secrets and custom header values in Redis: the first key seals, all open. Give it in the environment; a flag shows in process lists. Without one they lie in plain text.";
        secret_key_file "secret-key-file" keys::file Value Redis:
            "The same from a file, a key a line, so that no environment holds it. Read at the start.";
    }
    process: ProcessSettings {
        listen "listen" words::address Value Serve:
            "The admin API's address. Loopback, because it speaks plain HTTP unless tls-cert is set.";
        ops_listen "ops-listen" words::address Value Serve:
            "The operator's address: /livez, /readyz, /metrics. Apart from the API, so that it need not be public.";
        roles "roles" words::roles Value Serve:
            "What this replica does; splitting lets the API scale apart from the delivery.";
        data_dir "data-dir" words::folder Value Redis:
            "Where the embedded Redis keeps its data and its socket.";
        embedded_redis_port "embedded-redis-port" words::optional_port Value Serve:
            "Loopback port of the embedded Redis beside its socket, for redis-cli and producers on this machine.";
        workers "workers" text::threads Value Serve:
            "Threads that deliver, each with its own connections. One per core.";
        log_level "log-level" words::log_filter Value Every:
            "Which lines are logged. RUST_LOG, where set, wins over the environment and the file, the flag over RUST_LOG.";
        log_format "log-format" words::log_format Value Every:
            "auto writes text to a terminal and JSON lines elsewhere.";
        otlp_endpoint "otlp-endpoint" egress::otlp_endpoint Value Serve:
            "Where spans of events with a sampled traceparent go, as OTLP over HTTP. OTEL_EXPORTER_OTLP_ENDPOINT is taken where neither this nor its variable is given.";
        otlp_headers "otlp-headers" otlp::headers List Serve:
            "Headers of every export, for a collector that wants a key. OTEL_EXPORTER_OTLP_HEADERS is taken where neither this nor its variable is given. Give it in the environment; a flag shows in process lists.";
    }
    admin: AdminSettings {
        tls_cert "tls-cert" addresses::optional_file Value Serve:
            "PEM file of the admin API's certificate and the ones it rests on, with tls-key; without them it speaks plain HTTP.";
        tls_key "tls-key" addresses::optional_file Value Serve:
            "PEM file of the certificate's private key.";
        tls_check "tls-check" text::duration Value Serve:
            "How often the two files are looked at: changed ones serve new connections, unusable ones change nothing.";
        cors_origins "cors-origin" addresses::origins List Serve:
            "Origins whose pages may call the admin API from a browser. None: a token has no place in a page unless you say so.";
        trusted_proxies "trusted-proxy" words::networks List Serve:
            "Networks whose X-Forwarded-For is believed. None: anybody can write that header.";
        rate_limit "admin-rate-limit" text::count32 Value Serve:
            "Requests a minute of one token at one replica, so that a loop in one caller does not starve the others; 0 for any number.";
        auth_failures_max "admin-auth-failures-max" text::count32 Value Serve:
            "Requests with a bad token that one address may make a minute before it is slowed; 0 for any number.";
        connections_max "admin-connections-max" text::count32 Value Serve:
            "Connections at once, each with a socket and buffers; further ones wait to be accepted.";
        connections_per_address "admin-connections-per-address" text::count32 Value Serve:
            "Connections at once from one address, so that one caller cannot take all places: half of them. Further ones are closed; trusted-proxy is not limited; 0 for any number.";
        head_bytes_max "admin-head-bytes-max" text::size Value Serve:
            "Bytes of a request's line and headers: long enough for any filter, small enough for every connection to hold.";
        headers_max "admin-headers-max" text::count32 Value Serve:
            "Headers of a request: proxies add some, nobody needs hundreds.";
        head_timeout "admin-head-timeout" text::duration Value Serve:
            "Longest time for a TLS handshake, for a request's head, and for a connection without a request.";
        body_bytes_max "admin-body-bytes-max" text::size Value Serve:
            "Bytes of one request's body: a thousand events of the usual size.";
        bodies_bytes_max "admin-bodies-bytes-max" text::size Value Serve:
            "Bytes of all requests' bodies in memory; more are refused. Parsing takes about as much again.";
        body_timeout "admin-body-timeout" text::duration Value Serve:
            "Longest time for a body to arrive.";
        body_rate_min "admin-body-rate-min" text::size Value Serve:
            "Bytes a second that a body has to arrive with after its first 5 s, so that nobody holds a place by dripping; 0 for any.";
        request_timeout "admin-request-timeout" text::duration Value Serve:
            "Longest time until a request is answered, its body included: 10 s over request-timeout at least, for a test waits for its attempt. 60s, or that where it is more.";
        write_timeout "admin-write-timeout" text::duration Value Serve:
            "Longest time in which a caller takes nothing of its answer; then the connection is closed.";
        drain_timeout "admin-drain-timeout" text::duration Value Serve:
            "How long requests in flight may take once the listener closes.";
    }
    delivery: DeliverySettings {
        request_timeout "request-timeout" text::duration Value Serve:
            "Deadline of one attempt over DNS, connect, TLS, headers and body. The contract grants receivers 30 s.";
        connect_timeout "connect-timeout" text::duration Value Serve:
            "Deadline over connect and TLS inside the request's: a dead host is known sooner than a slow one. 5s, or the request's where that is less.";
        schedule "retry-schedule" words::schedule Value Serve:
            "Delays between attempts, for every config; the last repeats. exponential is min(24h, e^(2.5 n) s).";
        allow_targets "allow-target" words::networks List Serve:
            "Networks that deliveries may go to although the guard denies private and special addresses. For development and internal receivers.";
        allow_http "allow-http" text::switch Switch Serve:
            "Lets configs use http URLs. For development: without TLS anyone on the way reads the events.";
        drain_timeout "drain-timeout" text::duration Value Serve:
            "How long a stopping replica lets attempts finish. request-timeout + 5s unless set, so that a restart makes no duplicate.";
        proxy_url "proxy-url" egress::proxy_url Value Serve:
            "A forward proxy that deliveries take: CONNECT for https targets. It looks names up, so keeping deliveries out of private networks is then its task.";
        no_proxy "no-proxy" egress::no_proxy List Serve:
            "Hosts that deliveries reach without the proxy; the guard judges them as it does without one.";
        ca_file "ca-file" egress::ca_file Value Serve:
            "Certificate authorities (PEM) that are trusted beside the system's, for internal receivers. Read at the start.";
        source_addresses "source-address" egress::source_addresses Value Serve:
            "The local address that deliveries leave from, where receivers admit known addresses only; one for each family.";
    }
    health: HealthSettings {
        breaker_failures "breaker-failures" text::count32 Value Serve:
            "Retryable failures in a row after which an endpoint is left alone for a while, and its deliveries keep their attempts; 0 never.";
        breaker_delay "breaker-delay" text::duration Value Serve:
            "How long it is left alone at first; doubled each time that the one delivery sent then fails.";
        breaker_delay_max "breaker-delay-max" text::duration Value Serve:
            "How long it is left alone at most, unless it asks for more: how late a recovery is noticed.";
        disable_after "disable-after" text::duration Value Serve:
            "Nothing but failures for this long disables a config, with warnings at half and nine tenths of it; 0s never.";
        disable_attempts "disable-attempts" text::count64 Value Serve:
            "Failed attempts that disabling takes at least: a quiet endpoint is not judged by a few.";
        operator_organisation "operator-organisation" words::organisation Value Serve:
            "The organisation that also gets the events about disabled and failing configs of all others; none for nobody.";
    }
    limits: LimitSettings {
        in_flight_max "in-flight-max" text::count32 Value Serve:
            "Attempts in flight over all configs, each with a socket: what files and memory of one replica carry.";
        config_in_flight_max "config-in-flight-max" text::count32 Value Serve:
            "Attempts in flight for one config over all live replicas, so that one endpoint cannot take them all. 1024, or in-flight-max where that is less.";
        deliveries_max "deliveries-max" text::count32 Value Serve:
            "Deliveries in memory, in flight or waiting in lanes; reading of the stream stops at it.";
        delivery_bytes_max "delivery-bytes-max" text::size Value Serve:
            "Bytes of bodies in memory; reading of the stream stops at it.";
        read_count_max "read-count-max" text::count32 Value Serve:
            "Entries asked for in one read of the stream: large enough to spread the round trip, small enough to share.";
        lane_wait_max "lane-wait-max" text::duration Value Serve:
            "Longest expected wait in a lane's memory before a delivery is parked in Redis.";
        idle_connections_max "idle-connections-max" text::count32 Value Serve:
            "Idle connections to endpoints over all lanes; the oldest are closed first.";
        idle_connection_timeout "idle-connection-timeout" text::duration Value Serve:
            "How long an idle connection is kept: under the keep-alive of common servers, so that few are closed in our face.";
        admin_requests_max "admin-requests-max" text::count32 Value Serve:
            "Requests in flight at the admin API; more are refused.";
        log_streams_max "log-streams-max" text::count32 Value Serve:
            "Live tails of logs that one replica serves, each with a connection to Redis; one organisation gets a quarter of them, further ones are refused.";
    }
    retention: RetentionSettings {
        log_rows_max "log-rows-max" text::count64 Value Serve:
            "Rows of one config's attempt log.";
        log_bytes_max "log-bytes-max" text::size Value Serve:
            "Bytes of one config's attempt log.";
        payload_bytes_max "payload-bytes-max" text::size Value Serve:
            "Bytes of one config's stored payloads; rows without one say so.";
        log_age_max "log-age-max" text::duration Value Serve:
            "Age at which an idle log expires, and a failed delivery or a rejected entry goes.";
        failed_max "failed-max" text::count64 Value Serve:
            "Failed deliveries of one config that can be retried by hand.";
        failed_bytes_max "failed-bytes-max" text::size Value Serve:
            "Bytes of the records of one config's failed deliveries.";
        queue_max "queue-max" text::count64 Value Serve:
            "Deliveries of one config that wait in Redis; more end as failed (backlog full).";
        queue_bytes_max "queue-bytes-max" text::size Value Serve:
            "Bytes of the records of one config's queue.";
        overdue_max "overdue-max" text::duration Value Serve:
            "How long past its time a delivery may wait before it ends as failed (expired).";
        rejected_max "rejected-max" text::count64 Value Serve:
            "Stream entries that could not be understood and are kept with the reason, per shard.";
        rejected_bytes_max "rejected-bytes-max" text::size Value Serve:
            "Bytes of those entries, per shard.";
        events_age "events-age" text::duration Value Serve:
            "How long delivered events stay in the stream, for replays; 0s trims at once.";
        events_bytes_max "events-bytes-max" text::size Value Serve:
            "Bytes of one shard's stream above which the oldest delivered events go before events-age is over.";
    }
}
