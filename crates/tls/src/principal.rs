//! Who a certificate speaks for: SPIFFE ids, parsed strictly.

use std::fmt;
use std::str::FromStr;

use fieldfare_fleet::{DeviceId, DeviceIdError, NameError, TenantName, TrainerName};

/// Longest trust domain in bytes (SPIFFE-ID specification, section 2.3).
const MAX_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe://";

/// The name of a fleet's authority: 1 to 255 of `a-z`, `0-9`, `.`, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

/// Why a text is no trust domain or no principal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// The text does not begin with `spiffe://`.
    #[error("a SPIFFE id begins with `spiffe://`")]
    Scheme,
    /// The trust domain is empty, too long, or has another character.
    #[error("{found:?} is no trust domain: 1 to {MAX_DOMAIN_BYTES} of a-z, 0-9, '.', '-' and '_'")]
    Domain {
        /// The text in the place of the trust domain.
        found: String,
    },
    /// The path is none of those that Fieldfare gives out.
    #[error(
        "{found:?} is no path of a principal: expected /tenant/<tenant>/device/<uuid>, \
         /tenant/<tenant>/trainer/<name>, /tenant/<tenant>/operator/<name> or /controller/<name>"
    )]
    Path {
        /// The text in the place of the path.
        found: String,
    },
    /// A name in the path breaks the rule of names.
    #[error("{found:?} in a SPIFFE id is no name")]
    Name {
        /// The text in the place of the name.
        found: String,
        /// The rule that it breaks.
        #[source]
        source: NameError,
    },
    /// The device in the path is no device id.
    #[error("{found:?} in a SPIFFE id is no device id")]
    Device {
        /// The text in the place of the device id.
        found: String,
        /// What is wrong with it.
        #[source]
        source: DeviceIdError,
    },
}

impl TrustDomain {
    /// Parses a trust domain.
    ///
    /// # Errors
    /// [`PrincipalError::Domain`] for anything but 1 to 255 of `a-z`, `0-9`, `.`, `-` and `_`.
    pub fn new(text: impl Into<String>) -> Result<Self, PrincipalError> {
        let text = text.into();
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > MAX_DOMAIN_BYTES || !text.bytes().all(allowed) {
            return Err(PrincipalError::Domain { found: text });
        }
        Ok(Self(text))
    }

    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE id of the domain itself, which its authority's certificate carries: `spiffe://<domain>`.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }

    /// Parses `spiffe://<domain>` without a path.
    ///
    /// # Errors
    /// When the scheme is another, the domain is none, or a path follows.
    pub fn from_uri(uri: &str) -> Result<Self, PrincipalError> {
        Self::new(uri.strip_prefix(SCHEME).ok_or(PrincipalError::Scheme)?)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = PrincipalError;
    fn from_str(text: &str) -> Result<Self, PrincipalError> {
        Self::new(text)
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// A DNS-1123 label, by the rule of all names in `fieldfare-fleet`.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// [`NameError`] names the rule that the text breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                TenantName::new(text).map(|checked| Self(checked.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    )*};
}

names! {
    /// Name of an operator of one tenant: a person or an automation.
    OperatorName;
    /// Name of a controller replica.
    ControllerName;
}

/// Who a certificate speaks for. Its text form is its SPIFFE id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    /// The authority that vouches for it.
    pub domain: TrustDomain,
    /// What it is, and its name among those.
    pub role: Role,
}

/// What a principal is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A replica of the control plane, for all tenants: `/controller/<name>`.
    Controller(ControllerName),
    /// An enrolled device: `/tenant/<tenant>/device/<uuid>`.
    Device(TenantName, DeviceId),
    /// A trainer: `/tenant/<tenant>/trainer/<name>`.
    Trainer(TenantName, TrainerName),
    /// An operator: `/tenant/<tenant>/operator/<name>`.
    Operator(TenantName, OperatorName),
}

impl Principal {
    /// A controller replica.
    pub fn controller(domain: TrustDomain, name: ControllerName) -> Self {
        Self {
            domain,
            role: Role::Controller(name),
        }
    }

    /// A device of a tenant.
    pub fn device(domain: TrustDomain, tenant: TenantName, device: DeviceId) -> Self {
        Self {
            domain,
            role: Role::Device(tenant, device),
        }
    }

    /// A trainer of a tenant.
    pub fn trainer(domain: TrustDomain, tenant: TenantName, name: TrainerName) -> Self {
        Self {
            domain,
            role: Role::Trainer(tenant, name),
        }
    }

    /// An operator of a tenant.
    pub fn operator(domain: TrustDomain, tenant: TenantName, name: OperatorName) -> Self {
        Self {
            domain,
            role: Role::Operator(tenant, name),
        }
    }

    /// The tenant it belongs to; none for a controller.
    pub fn tenant(&self) -> Option<&TenantName> {
        match &self.role {
            Role::Controller(_) => None,
            Role::Device(tenant, _) | Role::Trainer(tenant, _) | Role::Operator(tenant, _) => Some(tenant),
        }
    }

    /// Whether others connect to it, so that its certificate also serves as a server's.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.role, Role::Controller(_) | Role::Trainer(..))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.domain, self.role)
    }
}

impl fmt::Display for Role {
    /// The path of the SPIFFE id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller(name) => write!(f, "/controller/{name}"),
            Self::Device(tenant, device) => write!(f, "/tenant/{tenant}/device/{device}"),
            Self::Trainer(tenant, name) => write!(f, "/tenant/{tenant}/trainer/{name}"),
            Self::Operator(tenant, name) => write!(f, "/tenant/{tenant}/operator/{name}"),
        }
    }
}

fn name<T: FromStr<Err = NameError>>(found: &str) -> Result<T, PrincipalError> {
    found.parse().map_err(|source| PrincipalError::Name {
        found: found.to_owned(),
        source,
    })
}

impl FromStr for Principal {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Self, PrincipalError> {
        let rest = text.strip_prefix(SCHEME).ok_or(PrincipalError::Scheme)?;
        let (domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        let domain = TrustDomain::new(domain)?;
        let segments: Vec<&str> = path.splitn(5, '/').collect();
        let role = match segments.as_slice() {
            ["controller", controller] => Role::Controller(name(controller)?),
            ["tenant", tenant, "device", device] => {
                let source = |source| PrincipalError::Device {
                    found: (*device).to_owned(),
                    source,
                };
                Role::Device(name(tenant)?, device.parse().map_err(source)?)
            }
            ["tenant", tenant, "trainer", trainer] => Role::Trainer(name(tenant)?, name(trainer)?),
            ["tenant", tenant, "operator", operator] => Role::Operator(name(tenant)?, name(operator)?),
            _ => {
                return Err(PrincipalError::Path {
                    found: rest[domain.as_str().len()..].to_owned(),
                });
            }
        };
        Ok(Self { domain, role })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEVICE: &str = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";

    #[test]
    fn every_kind_of_principal_round_trips() {
        for text in [
            format!("spiffe://farm.example/tenant/north/device/{DEVICE}"),
            "spiffe://farm.example/tenant/north/trainer/t-1".to_owned(),
            "spiffe://farm.example/tenant/north/operator/ada".to_owned(),
            "spiffe://farm.example/controller/c0".to_owned(),
        ] {
            assert_eq!(text.parse::<Principal>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_id_that_is_nearly_one_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://farm.example",
            "spiffe://farm.example/",
            "SPIFFE://farm.example/controller/c0",
            "spiffe://Farm.example/controller/c0",
            "spiffe://farm.example:443/controller/c0",
            "spiffe://user@farm.example/controller/c0",
            "spiffe://farm.example/controller/c0/",
            "spiffe://farm.example//controller/c0",
            "spiffe://farm.example/controller/",
            "spiffe://farm.example/controller/c0?x=1",
            "spiffe://farm.example/controller/c0#x",
            "spiffe://farm.example/controller/%630",
            "spiffe://farm.example/tenant/north/device/1",
            "spiffe://farm.example/tenant/../device/f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "spiffe://farm.example/tenant/north/device/F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6",
            "spiffe://farm.example/tenant/north/trainer/t-1/device/x",
            "spiffe://farm.example/tenant/north/admin/ada",
            "https://farm.example/controller/c0",
        ] {
            assert!(text.parse::<Principal>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_it_was(text in "spiffe://[a-z.]{1,6}/(tenant|controller)/[a-z/-]{0,20}") {
            if let Ok(principal) = text.parse::<Principal>() {
                prop_assert_eq!(principal.to_string(), text);
            }
        }
    }
}
