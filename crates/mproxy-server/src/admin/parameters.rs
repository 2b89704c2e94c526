//! The parameters of an address: those that the document names, and no others.

use axum::extract::{FromRequestParts, Query};
use axum::http::Uri;
use axum::http::request::Parts;
use mproxy_policy::nearest;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::openapi::path::Parameter;
use utoipa::{IntoParams, ToSchema};

use super::problem::ApiError;
use super::value_form;

/// Of a page, unless the caller says otherwise.
const USUAL_PAGE: usize = 100;

/// More are not shown at once.
const LARGEST_PAGE: usize = 1000;

/// The parameters of an address, and no others: one that is misspelt would be as if it were not there.
pub(super) struct Parameters<T>(pub(super) T);

/// None.
#[derive(Debug, Deserialize)]
pub(super) struct Nothing {}

impl IntoParams for Nothing {
    fn into_params(_: impl Fn() -> Option<utoipa::openapi::path::ParameterIn>) -> Vec<Parameter> {
        Vec::new()
    }
}

impl<T: DeserializeOwned + IntoParams, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        refuse_wrong(&parts.uri, &T::into_params(|| None))?;
        read(&parts.uri).map(Self)
    }
}

/// A parameter that says yes or no, in both of its usual spellings.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub(super) enum Switch {
    /// No.
    #[serde(rename = "false")]
    False,
    /// Yes.
    #[serde(rename = "true")]
    True,
    /// No.
    #[serde(rename = "0")]
    Zero,
    /// Yes.
    #[serde(rename = "1")]
    One,
}

impl Switch {
    pub(super) const fn is_on(self) -> bool {
        matches!(self, Self::True | Self::One)
    }
}

/// Two sets of parameters of one address, which other addresses take with others.
pub(super) struct BothParameters<A, B>(pub(super) A, pub(super) B);

impl<A, B, S> FromRequestParts<S> for BothParameters<A, B>
where
    A: DeserializeOwned + IntoParams,
    B: DeserializeOwned + IntoParams,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        refuse_wrong(&parts.uri, &[A::into_params(|| None), B::into_params(|| None)].concat())?;
        Ok(Self(read(&parts.uri)?, read(&parts.uri)?))
    }
}

fn read<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    // What may be wrong with them is told before, in words of ours.
    let unread = |_| ApiError::bad("the parameters cannot be read");
    Query::try_from_uri(uri).map(|Query(parameters)| parameters).map_err(unread)
}

/// What is wrong with the parameters of an address, by what the document says of them.
fn refuse_wrong(uri: &Uri, known: &[Parameter]) -> Result<(), ApiError> {
    let given: Vec<(String, String)> = read(uri)?;
    for (at, (name, value)) in given.iter().enumerate() {
        let Some(parameter) = known.iter().find(|parameter| parameter.name == *name) else {
            return Err(unknown(name, known));
        };
        if given.iter().take(at).any(|(before, _)| before == name) {
            return Err(ApiError::bad(format!("{name} is given more than once")));
        }
        if let Some(expected) = value_form::wrong(parameter, value) {
            return Err(ApiError::bad(format!("{name} must be {expected}")));
        }
    }
    Ok(())
}

fn unknown(name: &str, known: &[Parameter]) -> ApiError {
    let names = || known.iter().map(|parameter| parameter.name.as_str());
    let meant = match nearest(name, names()) {
        Some(known) => format!("did you mean {known:?}?"),
        None if known.is_empty() => "this address takes none".to_owned(),
        None => format!("this address takes {}", names().collect::<Vec<_>>().join(", ")),
    };
    ApiError::bad(format!("unknown parameter {name:?}: {meant}"))
}

/// How many are shown at once.
pub(super) fn page_limit(limit: Option<usize>) -> Result<usize, ApiError> {
    let limit = limit.unwrap_or(USUAL_PAGE);
    match (1..=LARGEST_PAGE).contains(&limit) {
        true => Ok(limit),
        false => Err(ApiError::bad(format!("limit must be a number from 1 to {LARGEST_PAGE}"))),
    }
}
