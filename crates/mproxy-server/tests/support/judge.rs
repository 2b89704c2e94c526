//! A hook service that does as topics, filters, payloads and user names tell it, and a house that asks it.

use mproxy_testkit::mosquitto::Mosquitto;
use mproxy_testkit::service::contract::{self, ConnectAllow, DeliverAllow, Deny, FilterAllow, PublishAllow};
use mproxy_testkit::service::{Play, Running, Service, each_filter, wants_everything};
use mproxy_testkit::tap::Tap;

use super::Proxy;

/// A refusal by its name: of a topic, a filter, a payload, a user name.
pub(crate) const NO: &str = "no/ACTION_REJECT";

/// mproxy, whom it asks, and a real broker behind it.
pub(crate) struct House {
    pub(crate) proxy: Proxy,
    pub(crate) judge: Running,
    /// Between mproxy and the broker.
    pub(crate) tap: Tap,
    pub(crate) broker: Mosquitto,
}

impl House {
    /// With a service that does as it is told.
    pub(crate) async fn new() -> Self {
        Self::with(refuses_as_told(), &[]).await
    }

    pub(crate) async fn with(service: Service, variables: &[(&str, &str)]) -> Self {
        let (broker, judge) = (Mosquitto::start().await, Running::start(service).await);
        let tap = Tap::start(broker.addr(), 6).await;
        let proxy = Proxy::asking(&judge, tap.addr(), variables).await;
        Self { proxy, judge, tap, broker }
    }
}

/// A service that refuses what asks for it by its name (`no/ACTION_DROP/x`, `code/151`), and rewrites what asks for that
/// (`as/another/name`). Of deliveries only the topics below `down/` can ask. No method of authentication but `ours` is known.
pub(crate) fn refuses_as_told() -> Service {
    Service {
        hello: Some(wants_everything()),
        connect: Box::new(|asked| {
            let asked = asked.get_ref();
            if asked.authentication_method.as_deref().is_some_and(|method| method != "ours") {
                return Play::answer(Deny { reason_code: 0x8C, ..Deny::default() });
            }
            let username = asked.client.as_ref().and_then(|client| client.username.as_deref());
            Play::Answer(or(username.unwrap_or_default(), ConnectAllow::default()))
        }),
        publish: Box::new(|asked| {
            let asked = asked.get_ref();
            let payload = String::from_utf8_lossy(asked.payload.as_deref().unwrap_or_default());
            let topic = [asked.topic.as_str(), &payload].iter().find_map(|wish| wish.strip_prefix("as/"));
            let allow = PublishAllow { topic: topic.map(str::to_owned), ..PublishAllow::default() };
            Play::Answer(refusal(&payload).map_or_else(|| or(&asked.topic, allow), Into::into))
        }),
        subscribe: each_filter(|filter| {
            let another = filter.strip_prefix("as/").map(str::to_owned);
            or(filter, FilterAllow { filter: another, ..FilterAllow::default() })
        }),
        deliver: Box::new(|asked| {
            let down = asked.get_ref().topic.strip_prefix("down/").unwrap_or_default();
            let topic = down.strip_prefix("as/").map(str::to_owned);
            Play::Answer(or(down, DeliverAllow { topic, ..DeliverAllow::default() }))
        }),
        ..Service::default()
    }
}

fn or<T: From<Deny>>(wish: &str, allow: impl Into<T>) -> T {
    refusal(wish).map_or_else(|| allow.into(), Into::into)
}

/// The refusal that is asked for, if one is.
fn refusal(wish: &str) -> Option<Deny> {
    let (what, rest) = wish.split_once('/')?;
    let word = rest.split('/').next()?;
    match what {
        "no" => contract::Action::from_str_name(word).map(Deny::with),
        "code" => Some(Deny { reason_code: word.parse().ok()?, ..Deny::default() }),
        _ => None,
    }
}
