//! TLS settings, and which addresses need them.

use std::{net::SocketAddr, path::PathBuf};

use super::{env::Lookup, flags::RoleFlags, problems::Problems, role::Role};
use crate::tls::{PublicTls, ServiceTls, TlsFiles};

/// TLS of one process.
pub(super) struct TlsSettings {
    /// Whether TLS between services is configured, also with files that cannot be used.
    pub(super) is_required: bool,
    /// Certificate for other services.
    pub(super) service: Option<ServiceTls>,
    /// Certificate of the gateway for its callers.
    pub(super) gateway: Option<PublicTls>,
}

impl TlsSettings {
    /// Resolves the settings, and checks that `addrs`, those of the main listener, are not open without TLS.
    pub(super) fn resolve(
        role: Role,
        flags: &RoleFlags,
        env: Lookup<'_>,
        addrs: &[SocketAddr],
        problems: &mut Problems,
    ) -> Self {
        let path = |flag: &Option<PathBuf>, name: &str| flag.clone().or_else(|| env(name).map(PathBuf::from));
        let files = [
            ("TLS_CERT", path(&flags.tls_cert, "TLS_CERT")),
            ("TLS_KEY", path(&flags.tls_key, "TLS_KEY")),
            ("TLS_CA", path(&flags.tls_ca, "TLS_CA")),
        ];
        let is_required = files.iter().any(|(_, path)| path.is_some());
        let mut of_gateway = ["GATEWAY_TLS_CERT", "GATEWAY_TLS_KEY"].map(|name| (name, None));
        if role == Role::Gateway {
            of_gateway.iter_mut().for_each(|(name, path)| *path = env(name).map(PathBuf::from));
        }
        let is_secure = match role {
            Role::Gateway => of_gateway.iter().any(|(_, path)| path.is_some()),
            Role::Planner | Role::Executor | Role::Health => is_required,
        };
        check_open(role, flags, env, addrs, is_secure, problems);
        let service = complete(files, problems).and_then(|[cert, key, ca]| {
            let files = TlsFiles { cert, key, ca: Some(ca) };
            ServiceTls::load(files, role)
                .map_err(|error| problems.add("TLS_CERT, TLS_KEY, TLS_CA", error))
                .ok()
        });
        let gateway = complete(of_gateway, problems).and_then(|[cert, key]| {
            let files = TlsFiles { cert, key, ca: None };
            PublicTls::load(files)
                .map_err(|error| problems.add("GATEWAY_TLS_CERT, GATEWAY_TLS_KEY", error))
                .ok()
        });
        Self { is_required, service, gateway }
    }
}

/// The paths, when each is set. Some without the others are a problem.
fn complete<const N: usize>(
    files: [(&str, Option<PathBuf>); N],
    problems: &mut Problems,
) -> Option<[PathBuf; N]> {
    if files.iter().all(|(_, path)| path.is_none()) {
        return None;
    }
    let names = files.each_ref().map(|(name, _)| *name).join(", ");
    for (name, _) in files.iter().filter(|(_, path)| path.is_none()) {
        problems.add(name, format_args!("is not set; set {names} together"));
    }
    let paths: Vec<_> = files.into_iter().filter_map(|(_, path)| path).collect();
    paths.try_into().ok()
}

/// Adds a problem when an address is open to other machines without TLS and without the permission for that.
fn check_open(
    role: Role,
    flags: &RoleFlags,
    env: Lookup<'_>,
    addrs: &[SocketAddr],
    is_secure: bool,
    problems: &mut Problems,
) {
    let is_allowed = flags.insecure
        || match env("PHOENIX_INSECURE").as_deref().map(str::trim) {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(other) => {
                problems.add("PHOENIX_INSECURE", format_args!("`{other}` must be true or false"));
                true
            }
        };
    let open = addrs.iter().find(|addr| !addr.ip().is_loopback());
    if let Some(open) = open.filter(|_| !is_secure && !is_allowed) {
        let tls = match role {
            Role::Gateway => "GATEWAY_TLS_CERT and GATEWAY_TLS_KEY",
            Role::Planner | Role::Executor | Role::Health => "TLS_CERT, TLS_KEY and TLS_CA",
        };
        problems.add(
            role.addr_variable(),
            format_args!(
                "{open} is reachable from other machines without TLS; set {tls}, or pass --insecure (PHOENIX_INSECURE=true) on a \
                 network that you trust"
            ),
        );
    }
}
