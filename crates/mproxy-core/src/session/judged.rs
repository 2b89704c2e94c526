//! A PUBLISH as rules see it.

use mproxy_codec::packet::publish::PublishHead;

use super::context::Context;
use crate::rule::Message;

/// A PUBLISH as rules see it, under this topic.
pub(super) fn judged_message<'t>(cx: &Context, topic: &'t str, head: &PublishHead<'_>) -> Message<'t> {
    Message {
        topic,
        qos: head.qos,
        retain: head.retain,
        payload: head.payload_len,
        time: cx.setting.clock.time(),
    }
}
