//! What a service presents to the others: the token of the stack and, with TLS, a certificate of its role.

use crate::{service_token::ServiceToken, tls::ServiceTls};

/// Token and certificate of a service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServiceIdentity {
    /// Token that the services of a stack share.
    pub token: ServiceToken,
    /// Certificate, with TLS between services.
    pub tls: Option<ServiceTls>,
}

impl From<ServiceToken> for ServiceIdentity {
    /// An identity without TLS.
    fn from(token: ServiceToken) -> Self {
        Self { token, tls: None }
    }
}

impl From<&ServiceToken> for ServiceIdentity {
    fn from(token: &ServiceToken) -> Self {
        token.clone().into()
    }
}

impl From<&Self> for ServiceIdentity {
    fn from(identity: &Self) -> Self {
        identity.clone()
    }
}
