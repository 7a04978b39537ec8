//! Starts and stops the parts themselves. Each start takes a port that was chosen before; where a stranger has it by
//! now another is chosen, and told, unless somebody waits for the part where it was.

use std::net::{Ipv4Addr, SocketAddr};

use futures::future::OptionFuture;
use tokio_util::sync::CancellationToken;

use super::broker::{Broker, BrokerConfig, BrokerCredentials};
use super::component::{Component, Ports};
use super::error::{HomeError, told};
use super::home::{Credentials, Home, S3Urls, StackUrls, free_port, is_free};
use super::postgres::{self, Cluster, Postgres, PostgresError, SOURCE_DATABASE, STATE_DATABASE, Search};
use super::s3::{S3Server, S3ServerConfig};
use super::source;

/// A part that answers.
pub(super) enum Service {
    Postgres(Box<Postgres>),
    Kafka(Broker),
    S3(S3Server),
    Source,
}

/// What a start came to.
pub(super) struct Started {
    pub(super) component: Component,
    /// The service and the port it has, or why there is none, for people.
    pub(super) outcome: Result<(Service, Option<u16>), String>,
}

/// What a part is started with.
pub(super) struct Start {
    pub(super) home: Home,
    pub(super) credentials: Credentials,
    pub(super) search: Search,
    pub(super) ports: Ports,
}

/// Starts one part. Postgres dies with the thread that polls this: the process's main thread.
pub(super) async fn start(component: Component, with: Start) -> Started {
    let Start { home, credentials, search, ports } = with;
    let outcome = match component {
        Component::Postgres => start_postgres(&home, credentials, &search, ports).await.map_err(|error| told(&error)),
        Component::Kafka => start_kafka(&home, &credentials, ports).await,
        Component::S3 => start_s3(&home, &credentials, ports).await,
        Component::Source => start_source(&credentials).await,
    };
    Started { component, outcome }
}

async fn start_postgres(
    home: &Home,
    mut credentials: Credentials,
    search: &Search,
    ports: Ports,
) -> Result<(Service, Option<u16>), PostgresError> {
    /// Each time a stranger must be quicker than the server.
    const TRIES: usize = 3;
    // First, since what still runs on the data has its port.
    let mut cluster = Cluster::open(home, &credentials.postgres, search).await?;
    let mut tries = 0;
    loop {
        tries += 1;
        credentials.postgres.port = free_or_other(Component::Postgres, credentials.postgres.port, ports)?;
        match cluster.start(home, &credentials.postgres).await {
            Err(PostgresError::PortTaken { port }) if tries < TRIES => {
                tracing::warn!(port, "the port of the embedded PostgreSQL was taken in the last instant");
            }
            started => return Ok((Service::Postgres(Box::new(started?)), Some(credentials.postgres.port))),
        }
    }
}

async fn start_kafka(home: &Home, credentials: &Credentials, ports: Ports) -> Result<(Service, Option<u16>), String> {
    let data = home.folder("kafka").map_err(|error| told(&error))?;
    let port = free_or_other(Component::Kafka, credentials.kafka.port, ports).map_err(|error| told(&error))?;
    let mut config = BrokerConfig::new(data, loopback(port));
    config.credentials = Some(BrokerCredentials {
        username: credentials.kafka.username.clone(),
        password: credentials.kafka.password.clone().into(),
    });
    let kafka = Broker::start(config, CancellationToken::new()).await.map_err(|error| told(&error))?;
    let port = kafka.address().port();
    Ok((Service::Kafka(kafka), Some(port)))
}

async fn start_s3(home: &Home, credentials: &Credentials, ports: Ports) -> Result<(Service, Option<u16>), String> {
    let root = home.folder("s3").map_err(|error| told(&error))?;
    let port = free_or_other(Component::S3, credentials.s3.port, ports).map_err(|error| told(&error))?;
    let config = S3ServerConfig {
        root,
        listen: loopback(port),
        access_key_id: credentials.s3.access_key_id.clone(),
        secret_access_key: credentials.s3.secret_access_key.clone().into(),
    };
    let server = S3Server::start(config, CancellationToken::new()).await.map_err(|error| told(&error))?;
    let port = server.address().port();
    Ok((Service::S3(server), Some(port)))
}

async fn start_source(credentials: &Credentials) -> Result<(Service, Option<u16>), String> {
    let url = postgres::url(&credentials.postgres, SOURCE_DATABASE).into();
    source::ensure(&url).await.map_err(|error| told(&error))?;
    Ok((Service::Source, None))
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The port of the last time; where a stranger has it now, another, if that is as good.
fn free_or_other(component: Component, port: u16, ports: Ports) -> Result<u16, HomeError> {
    if is_free(port) {
        return Ok(port);
    }
    if ports == Ports::Kept {
        return Err(HomeError::PortTaken { component, port });
    }
    let other = free_port()?;
    tracing::warn!(%component, port, other, "another program has the port of last time; taking another");
    Ok(other)
}

impl Started {
    /// Notes the port for the next start, and whether it changed.
    pub(super) fn note_port(&self, credentials: &mut Credentials) -> bool {
        let Ok((_, Some(port))) = &self.outcome else { return false };
        let noted = match self.component {
            Component::Postgres => &mut credentials.postgres.port,
            Component::Kafka => &mut credentials.kafka.port,
            Component::S3 => &mut credentials.s3.port,
            Component::Source => return false,
        };
        std::mem::replace(noted, *port) != *port
    }
}

/// Adds where a part that is ready can be reached.
pub(super) fn add_url(urls: &mut StackUrls, component: Component, credentials: &Credentials) {
    match component {
        Component::Postgres => urls.database_url = Some(postgres::url(&credentials.postgres, STATE_DATABASE)),
        Component::Kafka => {
            urls.kafka_bootstrap_servers = Some(loopback(credentials.kafka.port).to_string());
            let properties = [
                ("security.protocol", "SASL_PLAINTEXT"),
                ("sasl.mechanism", "PLAIN"),
                ("sasl.username", credentials.kafka.username.as_str()),
                ("sasl.password", credentials.kafka.password.as_str()),
            ];
            urls.kafka_properties =
                properties.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        }
        Component::S3 => {
            urls.s3 = Some(S3Urls {
                endpoint_url: format!("http://{}", loopback(credentials.s3.port)),
                access_key_id: credentials.s3.access_key_id.clone(),
                secret_access_key: credentials.s3.secret_access_key.clone(),
            });
        }
        Component::Source => urls.source_url = Some(postgres::url(&credentials.postgres, SOURCE_DATABASE)),
    }
}

/// The parts that answer.
#[derive(Default)]
pub(super) struct Services {
    postgres: Option<Box<Postgres>>,
    kafka: Option<Broker>,
    s3: Option<S3Server>,
}

impl Services {
    pub(super) fn add(&mut self, service: Service) {
        match service {
            Service::Postgres(postgres) => self.postgres = Some(postgres),
            Service::Kafka(kafka) => self.kafka = Some(kafka),
            Service::S3(server) => self.s3 = Some(server),
            Service::Source => {}
        }
    }

    /// Returns when a part has ended by itself: which, and how. Never, while all that was started goes on.
    pub(super) async fn ended(&mut self) -> (Component, String) {
        let postgres = OptionFuture::from(self.postgres.as_mut().map(|postgres| postgres.ended()));
        let kafka = OptionFuture::from(self.kafka.as_mut().map(Broker::ended));
        let s3 = OptionFuture::from(self.s3.as_mut().map(S3Server::ended));
        tokio::select! {
            biased;
            Some(status) = postgres => {
                let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                (Component::Postgres, how)
            }
            Some(()) = kafka => (Component::Kafka, IN_PROCESS.to_owned()),
            Some(()) = s3 => (Component::S3, IN_PROCESS.to_owned()),
            else => std::future::pending().await,
        }
    }

    /// Takes out what is left of a part that has ended, to be stopped.
    pub(super) fn take(&mut self, component: Component) -> Self {
        let mut taken = Self::default();
        match component {
            Component::Postgres => taken.postgres = self.postgres.take(),
            Component::Kafka => taken.kafka = self.kafka.take(),
            Component::S3 => taken.s3 = self.s3.take(),
            Component::Source => {}
        }
        taken
    }

    /// Stops the clients of the data first, and Postgres, which holds what decides, last.
    pub(super) async fn stop(self) {
        if let Some(kafka) = self.kafka {
            kafka.stop().await;
        }
        if let Some(server) = self.s3 {
            server.stop().await;
        }
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
    }

    /// Leaves everything as it is, for when the home is not where it was: nothing of these may write into another. The
    /// broker and the S3 server end with the process.
    pub(super) async fn abandon(self) {
        if let Some(postgres) = self.postgres {
            postgres.abandon().await;
        }
    }
}

/// What is known of a server's end inside of this process.
const IN_PROCESS: &str = "see the lines above";

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn with(home: &Home) -> Start {
        let credentials = home.credentials().unwrap();
        Start { home: home.clone(), credentials, search: Search::default(), ports: Ports::Kept }
    }

    #[tokio::test]
    async fn a_server_that_ends_within_the_process_is_noticed_and_started_again_on_its_port() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("home")).unwrap();
        let Start { credentials, .. } = with(&home);
        let mut services = Services::default();
        let token = CancellationToken::new();
        let config = BrokerConfig::new(home.folder("kafka").unwrap(), loopback(credentials.kafka.port));
        services.add(Service::Kafka(Broker::start(config, token.clone()).await.unwrap()));
        let config = S3ServerConfig {
            root: home.folder("s3").unwrap(),
            listen: loopback(credentials.s3.port),
            access_key_id: credentials.s3.access_key_id.clone(),
            secret_access_key: credentials.s3.secret_access_key.clone().into(),
        };
        services.add(Service::S3(S3Server::start(config, token.clone()).await.unwrap()));
        assert!(futures::poll!(std::pin::pin!(services.ended())).is_pending());
        token.cancel();
        for (component, port) in [(Component::Kafka, credentials.kafka.port), (Component::S3, credentials.s3.port)] {
            assert_eq!(services.ended().await.0, component);
            services.take(component).stop().await;
            let started = start(component, with(&home)).await;
            let (service, again) = started.outcome.unwrap();
            assert_eq!(again, Some(port));
            services.add(service);
        }
        services.stop().await;
    }

    #[tokio::test]
    async fn a_port_that_others_wait_at_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("home")).unwrap();
        let port = with(&home).credentials.s3.port;
        let _stranger = TcpListener::bind(loopback(port)).unwrap();
        let Err(message) = start(Component::S3, with(&home)).await.outcome else { panic!("it took another") };
        let told = format!("port {port}, where the embedded s3 was reached so far, is taken by another program");
        assert_eq!(message, told);
    }
}
