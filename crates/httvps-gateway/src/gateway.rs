//! The gateway as a whole: start, serve, drain.

mod certificate;

use crate::accept::accept;
use crate::admin::serve_admin;
use crate::context::{Context, Egress, EgressSetup, Parts};
use crate::memory_budget::MemoryBudget;
use crate::overload::{DescriptorReserve, raise_descriptor_limit, watch_memory};
use crate::registry::Order;
use httvps_config::{Config, ListenAddr, ListenHost, UpstreamMode};
use httvps_control::backend::{BackendClient, BackendSettings, BackendSetupError};
use httvps_egress::nodes::NodePoolSetup;
use httvps_egress::{Direct, EgressPolicy, Fake, OwnAddresses, Source, SourceError};
use httvps_resolve::{Resolve, SystemResolver};
use httvps_telemetry::metrics::{Limit, Metrics};
use httvps_tls::{CertError, CertFacts, CertSource, ServerTls};
use httvps_transport::socket::{self, Bind};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long before the end of the drain time-out the remaining sessions are closed.
const LAST_CLOSE: Duration = Duration::from_secs(3);

/// Why a gateway does not start. `Display` names the setting and what is wrong with it.
#[derive(Debug)]
pub enum StartError {
    /// The certificate or its key cannot be used.
    Certificate(CertError),
    /// The backend's settings do not work.
    Backend(BackendSetupError),
    /// The nodes cannot be used: the setting and what is wrong.
    Nodes(String),
    /// `direct` cannot leave from where it shall.
    Source(SourceError),
    /// A listener cannot be bound.
    Bind {
        /// The key of the setting.
        key: &'static str,
        /// The address as configured.
        address: String,
        /// What the system said.
        error: std::io::Error,
    },
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Certificate(error) => write!(f, "tls_cert_path, tls_key_path: {error}"),
            Self::Backend(error) => error.fmt(f),
            Self::Nodes(words) => f.write_str(words),
            Self::Source(error @ SourceError::Address(..)) => {
                write!(f, "direct_source_address: {error}")
            }
            Self::Source(error @ SourceError::Interface(..)) => {
                write!(f, "direct_interface: {error}")
            }
            Self::Bind { key, address, error } => {
                write!(f, "{key}: cannot listen on {address}: {error}")
            }
        }
    }
}

impl std::error::Error for StartError {}

/// A task of the gateway that must not end has panicked; the gateway has drained and ended.
#[derive(Debug)]
pub struct TaskDied;

impl std::fmt::Display for TaskDied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the gateway had to end: one of its tasks has panicked; its log says where")
    }
}

impl std::error::Error for TaskDied {}

/// What a running gateway is told from outside. Clones are the same signals.
#[derive(Clone, Default)]
pub struct Signals {
    /// Drain, then end.
    pub drain: CancellationToken,
    /// End at once.
    pub stop: CancellationToken,
    /// Read the certificate again.
    pub reload: Arc<Notify>,
}

/// A gateway that listens and is ready to serve.
pub struct Gateway {
    context: Arc<Context>,
    listener: TcpListener,
    admin: Option<TcpListener>,
}

/// Checks everything about a configuration that can be checked without serving: the certificate
/// and its key, the backend's settings, the resolver. What stands in the certificate is the answer,
/// none if it cannot be read.
pub fn check(config: &Config) -> Result<Option<CertFacts>, StartError> {
    parts(config.clone()).map(|parts| parts.tls.facts())
}

fn parts(config: Config) -> Result<Parts, StartError> {
    let metrics = Metrics::new();
    let source = CertSource {
        cert_path: config.tls_cert_path.clone(),
        key_path: config.tls_key_path.clone(),
    };
    let tls = ServerTls::new(&source).map_err(StartError::Certificate)?;
    let settings = BackendSettings {
        base_url: config.backend_base_url.to_string(),
        timeout: config.backend_timeout,
        secret: config.backend_secret.clone(),
        max_concurrent: config.backend_max_concurrent,
        idle_timeout: config.backend_idle_timeout,
        max_body: config.backend_max_body_bytes,
        breaker_failures: config.backend_breaker_failures,
        breaker_cooldown: config.backend_breaker_cooldown,
        ca_path: config.backend_ca_path.clone(),
        gateway_id: String::new(),
    };
    let backend = BackendClient::new(&settings, metrics.clone()).map_err(StartError::Backend)?;
    let egress = egress(&config)?;
    Ok(Parts { config, metrics, backend, egress, tls })
}

fn egress(config: &Config) -> Result<EgressSetup, StartError> {
    Ok(EgressSetup::Common(match config.upstream_mode {
        UpstreamMode::Fake | UpstreamMode::Echo => Arc::new(Fake::echo()),
        UpstreamMode::Blackhole => Arc::new(Fake::blackhole()),
        UpstreamMode::Direct => {
            let policy = EgressPolicy::new(config.egress_allow.clone());
            let policy = policy.refusing(OwnAddresses::new(listeners(config)));
            Arc::new(Direct::from_source(policy, SystemResolver::shared(), source(config)?))
        }
        UpstreamMode::Outline | UpstreamMode::Proxy => {
            let source = below_reserve(config, Source::default());
            let setup = NodePoolSetup::new(config, source).map_err(StartError::Nodes)?;
            return Ok(EgressSetup::Nodes(Box::new(setup)));
        }
    }))
}

/// The addresses that the listeners are given.
fn listeners(config: &Config) -> impl Iterator<Item = IpAddr> {
    let given = std::iter::once(&config.listen_addr).chain(&config.admin_addr);
    given.filter_map(|address| match address.host {
        ListenHost::Ip(ip) => Some(ip),
        ListenHost::Any | ListenHost::Name(_) => None,
    })
}

/// What the operator should know of this host before the gateway serves with `config`: a sentence each.
pub fn host_warnings(config: &Config) -> Vec<String> {
    let is_direct = config.upstream_mode == UpstreamMode::Direct;
    let is_fake = matches!(
        config.upstream_mode,
        UpstreamMode::Fake | UpstreamMode::Echo | UpstreamMode::Blackhole
    );
    let needs_names = !is_fake || httvps_https::needs_name(&config.backend_base_url.to_string());
    let mut warnings = if needs_names { SystemResolver::shared().problems() } else { Vec::new() };
    if is_direct && let Err(error) = OwnAddresses::check() {
        warnings.push(format!(
            "the addresses of this host cannot be listed ({error}), so upstream_mode direct does not refuse them; \
             a service manager that restricts address families must allow AF_NETLINK"
        ));
    }
    warnings
}

/// Leaves the last descriptors of the process to newcomers and to the gateway itself.
fn below_reserve(config: &Config, source: Source) -> Source {
    let reserve = DescriptorReserve::new(config.descriptor_reserve);
    source.below_descriptor(reserve.first_without_streams)
}

/// What `direct` leaves from, tried on this host.
fn source(config: &Config) -> Result<Source, StartError> {
    let interface = config.direct_interface.as_deref();
    let source = below_reserve(config, Source::new(&config.direct_source_address, interface));
    source.check().map_err(StartError::Source)?;
    Ok(source)
}

impl Gateway {
    /// Checks the configuration and binds the listeners. Must be called within a Tokio runtime.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        raise_descriptor_limit();
        let parts = parts(config)?;
        let listener = listen("listen_addr", &parts.config.listen_addr).await?;
        let admin = match &parts.config.admin_addr {
            Some(address) => Some(listen("admin_addr", address).await?),
            None => None,
        };
        Ok(Self { context: Arc::new(Context::new(parts)), listener, admin })
    }

    /// Where the gateway listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where the admin routes are served, when that is a listener of its own.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|admin| admin.local_addr().ok())
    }

    /// The gateway's metrics, to count what happens outside of it (panics, lost log lines).
    pub fn metrics(&self) -> Metrics {
        self.context.metrics.clone()
    }

    /// Serves until told to drain, drains, and ends within `drain_timeout`. The error is that it had
    /// to end by itself, because a task without which it cannot go on has died.
    pub async fn run(self, signals: Signals) -> Result<(), TaskDied> {
        let Self { context, listener, admin } = self;
        let accepting = signals.drain.child_token();
        let helpers = CancellationToken::new();
        let mut tasks = spawn_helpers(&context, &signals, &helpers, admin);
        if let Ok(address) = listener.local_addr() {
            let upstream = context.config.upstream_mode.to_string();
            tracing::info!(address = %address, upstream, "gateway_started");
        }
        let mut accept_loop = tokio::spawn(accept(context.clone(), listener, accepting));
        let (drains, died) = tokio::select! {
            biased;
            () = signals.drain.cancelled() => (true, None),
            () = signals.stop.cancelled() => (false, None),
            // It only ends by itself when it panicked. A deaf gateway must not look alive.
            _ = &mut accept_loop => (true, Some("accept_loop_died")),
            () = first_panic(&mut tasks) => (true, Some("helper_task_died")),
        };
        if let Some(event) = died {
            tracing::error!("{event}");
        }
        if drains {
            drain(&context, &signals).await;
        }
        accept_loop.abort();
        helpers.cancel();
        tracing::info!("gateway_stopped");
        if died.is_some() { Err(TaskDied) } else { Ok(()) }
    }
}

async fn listen(key: &'static str, address: &ListenAddr) -> Result<TcpListener, StartError> {
    let bound = match &address.host {
        ListenHost::Any => socket::listen(Bind::Any(address.port)),
        ListenHost::Ip(ip) => socket::listen(Bind::Address((*ip, address.port).into())),
        ListenHost::Name(name) => listen_by_name(name, address.port).await,
    };
    bound.map_err(|error| StartError::Bind { key, address: address.to_string(), error })
}

async fn listen_by_name(name: &str, port: u16) -> std::io::Result<TcpListener> {
    let found = SystemResolver::shared().resolve_own(name).await.map_err(std::io::Error::other)?;
    let Some(address) = preferred(&found.first) else {
        return Err(std::io::Error::other("the name has no address"));
    };
    socket::listen(Bind::Address((address, port).into()))
}

/// The address to listen on where a name has several: IPv4 before IPv6, as Go does, so that `localhost` means the same
/// whatever the order of `/etc/hosts`.
fn preferred(addresses: &[IpAddr]) -> Option<IpAddr> {
    addresses.iter().copied().min_by_key(IpAddr::is_ipv6)
}

/// Waits until one of the tasks panics.
async fn first_panic(tasks: &mut JoinSet<()>) {
    loop {
        match tasks.join_next().await {
            Some(Ok(())) => {}
            Some(Err(_)) => return,
            None => std::future::pending().await,
        }
    }
}

/// Starts the tasks beside the accept loop. They end when `helpers` is cancelled.
fn spawn_helpers(
    context: &Arc<Context>,
    signals: &Signals,
    helpers: &CancellationToken,
    admin: Option<TcpListener>,
) -> JoinSet<()> {
    let config = &context.config;
    let mut tasks = JoinSet::new();
    let mut spawn = |task: Pin<Box<dyn Future<Output = ()> + Send>>| {
        let until_end = helpers.clone().run_until_cancelled_owned(task);
        tasks.spawn(async {
            until_end.await;
        });
    };
    let budget = MemoryBudget::resolve(config.memory_budget_bytes);
    tracing::info!(
        budget = budget.to_string(),
        refuse_above_bytes = budget.bound(config.memory_refuse_percent),
        "memory_budget"
    );
    let admission = context.admission.clone();
    spawn(Box::pin(watch_memory(admission, budget, config.memory_refuse_percent)));
    let certificate_told = Arc::new(Notify::new());
    let nodes_told = Arc::new(Notify::new());
    let (told, all) = (signals.reload.clone(), [certificate_told.clone(), nodes_told.clone()]);
    let passing_on = async move {
        loop {
            told.notified().await;
            for told in &all {
                told.notify_one();
            }
        }
    };
    spawn(Box::pin(passing_on));
    spawn(Box::pin(certificate::watch(context.clone(), certificate_told)));
    if let Egress::Nodes(outline) = &context.egress {
        spawn(Box::pin(outline.clone().run(nodes_told)));
    }
    // Behind those that set metrics as they begin, so that the first scrape has them.
    if let Some(admin) = admin {
        tasks.spawn(serve_admin(context.clone(), admin, helpers.clone()));
    }
    tasks
}

/// Readiness off → stop accepting → `GO_AWAY` → staggered close → forced close.
async fn drain(context: &Arc<Context>, signals: &Signals) {
    let start = Instant::now();
    let sessions = context.registry.len();
    tracing::info!(sessions, "drain_started");
    context.start_draining();
    context.tasks.close();
    context.registry.order_all(Order::Announce);
    let timeout = context.config.drain_timeout;
    let orderly = async {
        context.registry.order_spread(Order::Close, context.config.drain_spread).await;
        context.tasks.wait().await;
    };
    let last_close = timeout.saturating_sub(LAST_CLOSE.min(timeout / 2));
    let is_done = tokio::select! {
        () = orderly => true,
        () = tokio::time::sleep(last_close) => false,
        () = signals.stop.cancelled() => false,
    };
    if !is_done {
        context.metrics.limit_hit(Limit::Drain);
        context.registry.order_all(Order::CloseNow);
        let left = (start + timeout).saturating_duration_since(Instant::now()).min(LAST_CLOSE);
        let _ = tokio::time::timeout(left, context.tasks.wait()).await;
    }
    let cut_off = context.registry.len();
    let seconds = start.elapsed().as_secs_f64();
    tracing::info!(sessions, cut_off, duration_seconds = seconds, "drain_finished");
}

#[cfg(test)]
mod tests;
