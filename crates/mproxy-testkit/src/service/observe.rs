//! The service's side of HookStream.Observe.

use std::collections::HashMap;
use std::fmt;

use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::contract::{Client, ObserveRequest, ObserveResponse, StreamEvent, stream_event};
use super::{Player, Told};

/// What is done with each message of an Observe stream.
pub type ObserveScript = Box<dyn Fn(&ObserveRequest, &Confirmations) + Send + Sync>;

/// What a service does with an Observe stream.
pub enum ObservePlay {
    /// It confirms each message.
    Confirm,
    /// UNIMPLEMENTED.
    Unimplemented,
    /// What is done with each message; confirmations may be sent at any time.
    Script(ObserveScript),
}

impl fmt::Debug for ObservePlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObservePlay")
    }
}

/// Confirms events on a stream.
#[derive(Clone, Debug)]
pub struct Confirmations {
    /// The number of the stream, from 1.
    pub stream: usize,
    sender: mpsc::UnboundedSender<Result<ObserveResponse, Status>>,
}

impl Confirmations {
    /// All events up to here are safe.
    pub fn send(&self, safe_up_to: u64) {
        let _ = self.sender.send(Ok(ObserveResponse { safe_up_to }));
    }

    /// Ends the stream with an error.
    pub fn fail(&self, status: Status) {
        let _ = self.sender.send(Err(status));
    }
}

impl ObserveRequest {
    /// The number up to which this message tells of events or gaps; 0: it has none.
    pub fn last(&self) -> u64 {
        let events = self.events.iter().map(StreamEvent::sequence);
        events.chain(self.gaps.iter().map(|gap| gap.to)).max().unwrap_or(0)
    }
}

impl StreamEvent {
    /// Its number. Panics of an event that is none.
    pub fn sequence(&self) -> u64 {
        self.told().0
    }

    /// Its number and what it says, as in [`Told::what`]; of a disconnect with its detail.
    pub fn told(&self) -> (u64, String) {
        use stream_event::Event;
        match self.event.as_ref() {
            Some(Event::Connect(event)) => (event.sequence, "connect".to_owned()),
            Some(Event::Publish(event)) => (event.sequence, event.topic.clone()),
            Some(Event::Subscribe(event)) => {
                let filters = event.filters.iter().map(|of| format!(" {}={}", of.filter, of.reason_code));
                (event.sequence, format!("subscribe{}", filters.collect::<String>()))
            }
            Some(Event::Unsubscribe(event)) => {
                let filters = event.filters.iter().map(|of| format!(" {}", of.filter));
                (event.sequence, format!("unsubscribe{}", filters.collect::<String>()))
            }
            Some(Event::Disconnect(event)) => (event.sequence, format!("disconnect {}", event.detail)),
            None => panic!("an event of nothing"),
        }
    }
}

impl Player {
    pub(super) fn play_observe(
        &self,
        request: Request<Streaming<ObserveRequest>>,
    ) -> Result<Response<BoxStream<ObserveResponse>>, Status> {
        self.log.send_modify(|log| log.calls.push("Observe"));
        if matches!(self.service.observe, ObservePlay::Unimplemented) {
            return Err(Status::unimplemented("no events here"));
        }
        let mut stream = 0;
        self.log.send_modify(|log| {
            log.observe_streams += 1;
            stream = log.observe_streams;
        });
        let (sender, outgoing) = mpsc::unbounded_channel();
        let confirmations = Confirmations { stream, sender };
        let (player, mut requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let mut clients = HashMap::new();
            while let Ok(Some(request)) = requests.message().await {
                // First, so that whoever sees an event of it sees the message.
                player.log.send_modify(|log| log.observed.push((stream, request.clone())));
                if let Err(status) = player.hear(&request, &mut clients) {
                    return confirmations.fail(status);
                }
                match &player.service.observe {
                    ObservePlay::Script(script) => script(&request, &confirmations),
                    ObservePlay::Confirm | ObservePlay::Unimplemented => match request.last() {
                        0 => {}
                        last => confirmations.send(last),
                    },
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(outgoing))))
    }

    /// Remembers what is told, by the names under which clients were introduced.
    fn hear(&self, request: &ObserveRequest, clients: &mut HashMap<u64, Client>) -> Result<(), Status> {
        let introduced = request.introduce.iter().cloned();
        clients.extend(introduced.map(|one| (one.client_ref, one.client.unwrap_or_default())));
        for event in &request.events {
            let Some(client) = clients.get(&event.client_ref) else {
                return Err(Status::failed_precondition(format!("client {} is nobody", event.client_ref)));
            };
            let (sequence, what) = event.told();
            let (client_id, epoch) = (client.client_id.clone(), client.epoch);
            self.log.send_modify(|log| log.told.push(Told { client_id, epoch, sequence, what }));
        }
        for gone in &request.forget {
            if clients.remove(gone).is_none() {
                return Err(Status::failed_precondition(format!("client {gone} is nobody")));
            }
        }
        Ok(())
    }
}
