//! A decider that does as it is told and remembers what it was asked, and a sink that remembers what it was told.

use std::sync::Mutex;

use mproxy_codec::property::PropertyId;
use mproxy_core::policy::{
    Answer, ConnectQuestion, Decider, Hook, Payload, Question, Ruling, Silence, Source, Verdict, Want,
};
use mproxy_core::{Event, Sink, event::Kind};

/// A question, as far as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which hook.
    pub hook: Hook,
    /// The topic of a PUBLISH, the client id of a CONNECT, the filters of a SUBSCRIBE joined by spaces.
    pub what: String,
    /// QoS of a PUBLISH, else 0.
    pub qos: u8,
    /// DUP flag of a PUBLISH.
    pub dup: bool,
    /// The payload of a PUBLISH, where it was shown; the password of a CONNECT.
    pub payload: Option<Vec<u8>>,
    /// How large the payload is.
    pub size: u64,
    /// The value of the user property called `id`, by which the simulator knows its packets again.
    pub id: Option<String>,
}

impl Asked {
    fn of(question: &Question<'_>) -> Self {
        let mut asked = Self {
            hook: question.hook(),
            what: String::new(),
            qos: 0,
            dup: false,
            payload: None,
            size: 0,
            id: None,
        };
        match question {
            Question::Connect(connect) => {
                asked.what = connect.connect.client_id.into();
                asked.payload = connect.connect.password.map(<[u8]>::to_vec);
            }
            Question::Subscribe(subscribe) => {
                let filters: Vec<&str> = subscribe.filters.iter().map(|one| one.filter.as_str()).collect();
                asked.what = filters.join(" ");
            }
            Question::Publish(publish) | Question::Deliver(publish) => {
                asked.what = publish.topic.into();
                asked.qos = publish.qos as u8;
                asked.dup = publish.dup;
                asked.size = publish.payload.size();
                if let Payload::Whole(payload) = publish.payload {
                    asked.payload = Some(payload.to_vec());
                }
                if publish.properties.contains(PropertyId::UserProperty) {
                    asked.id = publish
                        .properties
                        .user()
                        .find(|(name, _)| *name == "id")
                        .map(|(_, value)| value.to_owned());
                }
            }
        }
        asked
    }
}

/// What the script says to a question.
pub enum Reply {
    /// This, at once.
    Now(Verdict),
    /// The same, as a rule says it: it stands for all that is alike.
    Stands(Verdict),
    /// Something, when the test says so.
    Later,
    /// Nothing.
    Pass,
}

type Answering = Box<dyn FnMut(&Asked) -> Reply + Send>;

/// A decider that is told how to answer.
pub struct Script {
    wants: Mutex<[Want; 4]>,
    answering: Mutex<Answering>,
    asked: Mutex<Vec<Asked>>,
}

impl Script {
    /// Asks for all hooks but deliveries, without payloads; answers by `answering`.
    pub fn new(answering: impl FnMut(&Asked) -> Reply + Send + 'static) -> Self {
        Self {
            wants: Mutex::new([Want::Head, Want::Head, Want::Head, Want::Nothing]),
            answering: Mutex::new(Box::new(answering)),
            asked: Mutex::default(),
        }
    }

    /// From now on this hook wants this.
    pub fn want(&self, hook: Hook, want: Want) {
        self.wants.lock().expect("no test panicked here")[hook as usize] = want;
    }

    /// From now on it answers like this.
    pub fn answer(&self, answering: impl FnMut(&Asked) -> Reply + Send + 'static) {
        *self.answering.lock().expect("no test panicked here") = Box::new(answering);
    }

    /// Takes what was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().expect("no test panicked here"))
    }
}

impl Decider for Script {
    fn decide(&self, question: &Question<'_>) -> Answer {
        let asked = Asked::of(question);
        let reply = (self.answering.lock().expect("no test panicked here"))(&asked);
        self.asked.lock().expect("no test panicked here").push(asked);
        match reply {
            Reply::Now(verdict) => Answer::Now(Ruling { source: Source::Rpc, verdict }),
            Reply::Stands(verdict) => Answer::Now(Ruling { source: Source::Acl, verdict }),
            // The stage answers by `Session::decide`; nobody polls this.
            Reply::Later => Answer::Later(Box::pin(std::future::pending())),
            Reply::Pass => Answer::Pass,
        }
    }

    fn renew(&self, question: &ConnectQuestion<'_>) -> Answer {
        self.decide(&Question::Connect(*question))
    }

    fn want(&self, hook: Hook) -> Want {
        self.wants.lock().expect("no test panicked here")[hook as usize]
    }

    fn silence(&self) -> Silence {
        Silence::Denies
    }
}

/// A sink that wants what it is told to want. What it hears it hears through
/// [`Effect::Report`](mproxy_core::Effect::Report), so there is nothing to remember here.
pub struct Diary(pub Want);

impl Sink for Diary {
    fn report(&self, _event: Event) {}

    fn want(&self, kind: Kind) -> Want {
        match (kind, self.0) {
            (_, Want::Nothing) => Want::Nothing,
            (Kind::Publish, want) => want,
            _ => Want::Head,
        }
    }
}
