//! A hook service that does as topics, filters and user names tell it.

use mproxy_testkit::service::contract::{self, ConnectAllow, DeliverAllow, Deny, FilterAllow, PublishAllow};
use mproxy_testkit::service::{Play, Running, Service, each_filter, wants_everything};

/// The refusal that a topic, a filter or a user name asks for: `no/ACTION_DROP/#`, `code/151`.
fn refusal(wish: &str) -> Option<Deny> {
    let (what, rest) = wish.split_once('/')?;
    let word = rest.split('/').next()?;
    match what {
        "no" => contract::Action::from_str_name(word).map(Deny::with),
        "code" => Some(Deny { reason_code: word.parse().ok()?, ..Deny::default() }),
        _ => None,
    }
}

/// A service that refuses what asks for it by its name, and of deliveries what does so behind `down/`.
pub(crate) async fn refuses_as_told() -> Running {
    fn or<T: From<Deny>>(wish: &str, allow: impl Into<T>) -> T {
        refusal(wish).map_or_else(|| allow.into(), Into::into)
    }
    Running::start(Service {
        hello: Some(wants_everything()),
        connect: Box::new(|asked| {
            let username = asked.get_ref().client.as_ref().and_then(|client| client.username.as_deref());
            Play::Answer(or(username.unwrap_or_default(), ConnectAllow::default()))
        }),
        publish: Box::new(|asked| Play::Answer(or(&asked.get_ref().topic, PublishAllow::default()))),
        subscribe: each_filter(|filter| or(filter, FilterAllow::default())),
        deliver: Box::new(|asked| {
            let down = asked.get_ref().topic.strip_prefix("down/").unwrap_or_default();
            Play::Answer(or(down, DeliverAllow::default()))
        }),
        ..Service::default()
    })
    .await
}
