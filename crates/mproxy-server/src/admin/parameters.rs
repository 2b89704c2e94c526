//! The parameters of an address: those that the document names, and no others.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use mproxy_policy::nearest;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;
use utoipa::openapi::path::Parameter;

use super::problem::ApiError;

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
        refuse_unknown(&parts.uri, &T::into_params(|| None))?;
        read(&parts.uri).map(Self)
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
        refuse_unknown(&parts.uri, &[A::into_params(|| None), B::into_params(|| None)].concat())?;
        Ok(Self(read(&parts.uri)?, read(&parts.uri)?))
    }
}

fn read<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let Query(parameters) = Query::try_from_uri(uri)?;
    Ok(parameters)
}

fn refuse_unknown(uri: &Uri, known: &[Parameter]) -> Result<(), ApiError> {
    let given: Vec<(String, String)> = read(uri)?;
    let names = || known.iter().map(|parameter| parameter.name.as_str());
    let Some((unknown, _)) = given.iter().find(|(name, _)| names().all(|known| known != name)) else {
        return Ok(());
    };
    let text = match nearest(unknown, names()) {
        Some(known) => format!("unknown parameter {unknown:?}: did you mean {known:?}?"),
        None => format!("unknown parameter {unknown:?}: this address takes none"),
    };
    Err(ApiError::new(StatusCode::BAD_REQUEST, text))
}

/// How many are shown at once.
pub(super) fn page_limit(limit: Option<usize>) -> Result<usize, ApiError> {
    let limit = limit.unwrap_or(USUAL_PAGE);
    match (1..=LARGEST_PAGE).contains(&limit) {
        true => Ok(limit),
        false => Err(ApiError::bad(format!("limit must be a number from 1 to {LARGEST_PAGE}"))),
    }
}
