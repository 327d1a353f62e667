//! Adding tokens: to the requests of their route, over verified TLS, and to nothing else.

use base64::Engine;
use bottle_policy::{Auth, Control, Controls, Route, Tokens};
use bottle_wire::upstream::Security;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Uri};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroize;

use crate::hop::{PREFIX, Target};

/// Fields that frame or route a request: a token in one of them would change what the request is.
const FRAMING: [HeaderName; 8] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::EXPECT,
];

/// Why a route cannot be used. No message holds a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// Its token was not handed over.
    #[error("the route to {host} needs the token {token}, which was not handed over")]
    NoToken {
        /// Host of the route.
        host: String,
        /// Name of the token.
        token: String,
    },
    /// Its field has no name that a field can have, or one that frames the message.
    #[error("the route to {host} puts its token into the field {field:?}, which cannot carry one")]
    Field {
        /// Host of the route.
        host: String,
        /// Name as configured.
        field: String,
    },
    /// Its token has bytes that no field can have.
    #[error(
        "the token {token} for {host} is empty or holds bytes that no header field can carry (a line end, for example)"
    )]
    Value {
        /// Host of the route.
        host: String,
        /// Name of the token.
        token: String,
    },
}

/// The routes with their ready-made values.
pub(crate) struct Injector {
    routes: Vec<Ready>,
    controls: Controls,
}

struct Ready {
    host: String,
    port: u16,
    field: HeaderName,
    value: SecretString,
}

impl Injector {
    pub(crate) fn new(routes: &[Route], mut tokens: Tokens, controls: Controls) -> Result<Self, RouteError> {
        let ready = routes
            .iter()
            .map(|route| Ready::new(route, &tokens))
            .collect::<Result<_, _>>();
        for value in tokens.tokens.values_mut() {
            value.zeroize();
        }
        Ok(Self {
            routes: ready?,
            controls,
        })
    }

    /// Adds the tokens that belong to `target`, in place of what the guest sent in the same fields.
    pub(crate) fn inject(&self, target: &Target, headers: &mut HeaderMap) {
        for route in self.matching(target) {
            // Checked when the route was made ready.
            if let Ok(mut value) = HeaderValue::from_str(route.value.expose_secret()) {
                value.set_sensitive(true);
                headers.insert(route.field.clone(), value);
            }
        }
    }

    fn matching<'a>(&'a self, target: &'a Target) -> Box<dyn Iterator<Item = &'a Ready> + 'a> {
        if !self.controls.has(Control::RouteScope) {
            return Box::new(self.routes.iter().take(1));
        }
        let verified = matches!(target.security, Security::Tls { .. });
        Box::new(
            self.routes
                .iter()
                .filter(move |r| verified && r.host == target.host && r.port == target.port),
        )
    }

    /// What the bottle without scrubbing (K-NOSCRUB) says about the tokens it added: them. Otherwise nothing.
    pub(crate) fn unscrubbed(&self, target: &Target) -> Option<String> {
        if self.controls.has(Control::Scrub) {
            return None;
        }
        let added: Vec<_> = self
            .matching(target)
            .map(|route| route.value.expose_secret().to_owned())
            .collect();
        (!added.is_empty()).then(|| format!("added {}", added.join(", ")))
    }
}

impl Ready {
    fn new(route: &Route, tokens: &Tokens) -> Result<Self, RouteError> {
        let host = || route.host.clone();
        let token = tokens.tokens.get(&route.token).ok_or_else(|| RouteError::NoToken {
            host: host(),
            token: route.token.clone(),
        })?;
        let (field, value) = match &route.auth {
            Auth::Header(name) => (field_name(route, name)?, token.clone()),
            Auth::Bearer => (header::AUTHORIZATION, format!("Bearer {token}")),
            Auth::Basic { user } => {
                let mut pair = format!("{user}:{token}");
                let value = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(&pair));
                pair.zeroize();
                (header::AUTHORIZATION, value)
            }
        };
        let value = SecretString::from(value);
        if token.is_empty()
            || HeaderValue::from_str(token).is_err()
            || HeaderValue::from_str(value.expose_secret()).is_err()
        {
            return Err(RouteError::Value {
                host: host(),
                token: route.token.clone(),
            });
        }
        // The host is in normal form, but an address may still stand in brackets.
        let host = route.host.trim_matches(['[', ']']).to_ascii_lowercase();
        Ok(Self {
            host,
            port: route.port,
            field,
            value,
        })
    }
}

fn field_name(route: &Route, name: &str) -> Result<HeaderName, RouteError> {
    let refused = || RouteError::Field {
        host: route.host.clone(),
        field: name.to_owned(),
    };
    let field: HeaderName = name.parse().map_err(|_| refused())?;
    let framing =
        FRAMING.contains(&field) || field.as_str().starts_with(PREFIX) || field.as_str().starts_with("proxy-");
    if framing { Err(refused()) } else { Ok(field) }
}

/// Origin form of a target (RFC 9112 3.2.1).
pub(crate) fn origin_form(uri: &Uri) -> Uri {
    let path = uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    Uri::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(auth: Auth) -> Route {
        Route {
            host: "api.test".into(),
            port: 443,
            auth,
            token: "T".into(),
        }
    }

    fn injector(auth: Auth, token: &str) -> Result<Injector, RouteError> {
        let tokens = Tokens {
            tokens: [("T".to_owned(), token.to_owned())].into(),
            relay: None,
        };
        Injector::new(&[route(auth)], tokens, Controls::all())
    }

    fn target(host: &str, port: u16, security: Security) -> Target {
        Target {
            host: host.into(),
            port,
            address: "198.51.100.7:1".parse().unwrap(),
            security,
        }
    }

    const TLS: Security = Security::Tls { http2: false };

    #[rstest::rstest]
    #[case(Auth::Bearer, "authorization", "Bearer s3cret")]
    #[case(Auth::Header("X-Api-Key".into()), "x-api-key", "s3cret")]
    #[case(Auth::Basic { user: "u".into() }, "authorization", "Basic dTpzM2NyZXQ=")]
    fn the_token_replaces_what_the_guest_sent(#[case] auth: Auth, #[case] field: &str, #[case] expected: &str) {
        let mut headers = HeaderMap::new();
        headers.append(
            HeaderName::try_from(field).unwrap(),
            HeaderValue::from_static("guest 1"),
        );
        headers.append(
            HeaderName::try_from(field).unwrap(),
            HeaderValue::from_static("guest 2"),
        );
        injector(auth, "s3cret")
            .unwrap()
            .inject(&target("api.test", 443, TLS), &mut headers);
        assert_eq!(headers.get_all(field).iter().collect::<Vec<_>>(), [expected]);
        assert!(!format!("{headers:?}").contains("s3cret"));
    }

    #[rstest::rstest]
    #[case::plain("api.test", 443, Security::Plain)]
    #[case::port("api.test", 8443, TLS)]
    #[case::below("x.api.test", 443, TLS)]
    #[case::suffix("evilapi.test", 443, TLS)]
    #[case::dot("api.test.", 443, TLS)]
    fn nothing_else_gets_it(#[case] host: &str, #[case] port: u16, #[case] security: Security) {
        let mut headers = HeaderMap::new();
        injector(Auth::Bearer, "s3cret")
            .unwrap()
            .inject(&target(host, port, security), &mut headers);
        assert!(headers.is_empty());
    }

    #[rstest::rstest]
    #[case(Auth::Header("host".into()), "t0k3n")]
    #[case(Auth::Header("x-bottle-hop".into()), "t0k3n")]
    #[case(Auth::Header("no name".into()), "t0k3n")]
    #[case(Auth::Bearer, "t0k3n\r\nx: y")]
    #[case(Auth::Basic { user: "u".into() }, "t0k3n\n")]
    #[case(Auth::Bearer, "")]
    fn what_cannot_be_a_field_is_refused_without_the_token(#[case] auth: Auth, #[case] token: &str) {
        let error = injector(auth, token).err().unwrap();
        assert!(!format!("{error} {error:?}").contains("t0k3n"));
    }
}
