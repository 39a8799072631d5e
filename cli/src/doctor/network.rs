//! Ports, the gateway of a running stack, and certificates.

use std::{io, net::TcpListener};

use jiff::{SignedDuration, Timestamp};
use phoenix_platform::config::Role;

use super::finding::Finding;
use crate::{
    settings::Resolved,
    up::{data_folder, ready},
};

/// Time before the end of a certificate from which on it is a finding.
const EXPIRES_SOON: SignedDuration = SignedDuration::from_hours(21 * 24);

/// Whether the ports are free, or the stack that uses them is ready.
pub(super) async fn ports(resolved: &Resolved, is_offline: bool) -> Vec<Finding> {
    if resolved.is_stack && data_folder::is_in_use(&resolved.data_dir) {
        return vec![running(resolved, is_offline).await];
    }
    let mut findings = Vec::new();
    let mut free = Vec::new();
    let mut held = Vec::new();
    for service in &resolved.services {
        for (what, addr) in [("requests", service.settings.addr), ("/metrics", service.settings.metrics_addr)]
        {
            let problem = match TcpListener::bind(addr) {
                Ok(listener) => {
                    free.push(addr.port().to_string());
                    held.push(listener);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    "another process uses it".to_owned()
                }
                Err(error) => error.to_string(),
            };
            findings.push(Finding::error(
                "ports",
                format!("{addr} ({} {what}) cannot be bound: {problem}", service.role),
                "stop the process that uses the port, or choose others with --port-offset",
            ));
        }
    }
    if !free.is_empty() {
        findings.push(Finding::ok("ports", format!("free: {}", free.join(", "))));
    }
    findings
}

async fn running(resolved: &Resolved, is_offline: bool) -> Finding {
    let Some(gateway) = resolved.service(Role::Gateway).filter(|_| !is_offline) else {
        return Finding::ok("ports", "a stack runs with this data folder");
    };
    let addr = gateway.settings.addr;
    let answer = ready::missing(addr, gateway.settings.gateway_tls.as_ref()).await;
    if answer.contains("\"status\":\"ready\"") {
        return Finding::ok("ports", format!("a stack runs with this data folder, and is ready at {addr}"));
    }
    Finding::error(
        "ports",
        format!("a stack runs with this data folder, and is not ready at {addr}: {answer}"),
        "see its log; with other ports, pass the same --port-offset",
    )
}

/// Certificates that end soon. One that cannot be used is a problem of the settings.
pub(super) fn certificates(resolved: &Resolved) -> Vec<Finding> {
    let of_service = resolved.services.first().and_then(|service| service.settings.identity.tls.as_ref());
    let of_gateway =
        resolved.service(Role::Gateway).and_then(|service| service.settings.gateway_tls.as_ref());
    let all = [
        ("TLS_CERT", of_service.map(phoenix_platform::tls::ServiceTls::expires_at)),
        ("GATEWAY_TLS_CERT", of_gateway.map(phoenix_platform::tls::PublicTls::expires_at)),
    ];
    let finding = |(name, expires): (&str, Option<Timestamp>)| {
        let expires = expires?;
        let message = format!("the certificate of {name} is valid until {expires}");
        Some(if expires.duration_since(Timestamp::now()) < EXPIRES_SOON {
            Finding::warning(
                "certificates",
                message,
                "renew it: a running service uses changed files at once",
            )
        } else {
            Finding::ok("certificates", message)
        })
    };
    all.into_iter().filter_map(finding).collect()
}
