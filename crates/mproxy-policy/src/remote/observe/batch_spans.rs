//! The spans of the batches that a stream has not confirmed yet.

use std::collections::VecDeque;
use std::sync::Arc;

use super::kept::KeptEvent;
use crate::call_tracer::{BatchSpan, BatchStart, CallTracer};
use crate::trace_context::TraceContext;

/// Spans that are open at most. Batches beyond have none.
const OPEN: usize = 64;

/// Sessions that a span knows at most: a batch may have events of a thousand.
const SESSIONS: usize = 32;

/// Those of one stream, by the number of the last event.
#[derive(Default)]
pub(super) struct BatchSpans(VecDeque<(u64, Box<dyn BatchSpan>)>);

impl BatchSpans {
    /// These events are written. They have a span if that of one of their sessions is recorded.
    pub(super) fn begin(
        &mut self,
        tracer: &dyn CallTracer,
        endpoint: &str,
        events: &[(u64, Arc<KeptEvent>)],
        resent: usize,
    ) {
        let (Some((first, _)), Some((last, _))) = (events.first(), events.last()) else { return };
        if self.0.len() >= OPEN {
            return;
        }
        let sessions = sessions(events);
        if sessions.is_empty() {
            return;
        }
        let (first, last) = (*first, *last);
        let batch = BatchStart { endpoint, events: events.len(), resent, first, last, sessions: &sessions };
        self.0.extend(tracer.begin_batch(&batch).map(|span| (last, span)));
    }

    /// The service says that all up to here is safe.
    pub(super) fn confirm(&mut self, up_to: u64) {
        while let Some((_, span)) = self.0.pop_front_if(|(last, _)| *last <= up_to) {
            span.confirm();
        }
    }
}

/// The sessions of these events whose spans are recorded, each once.
fn sessions(events: &[(u64, Arc<KeptEvent>)]) -> Vec<Arc<TraceContext>> {
    let mut sessions: Vec<Arc<TraceContext>> = Vec::new();
    for session in events.iter().filter_map(|(_, kept)| kept.session.as_ref()) {
        if sessions.len() == SESSIONS {
            break;
        }
        if !sessions.iter().any(|known| known.span_id == session.span_id) {
            sessions.push(Arc::clone(session));
        }
    }
    sessions
}
