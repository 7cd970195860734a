//! A conversation: its history, its turns, and the terminal that shows them.

use std::io::{self, Write};

use hadal_proto::v1;
use hadal_proto::v1::chat_response::Event;
use hadal_proto::v1::hadal_client::HadalClient;
use hadal_shell::exit::Exit;
use hadal_shell::grpc::explain;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::Options;
use crate::fault::Fault;
use crate::served::refused;

/// A conversation with one model.
pub(super) struct Session {
    client: HadalClient<Channel>,
    model: String,
    sampling: v1::SamplingOptions,
    thinking: bool,
    /// With the system message, if there is one, at its beginning.
    messages: Vec<v1::Message>,
    system: usize,
}

fn message(role: &str, content: impl Into<String>) -> v1::Message {
    v1::Message { role: role.into(), content: content.into() }
}

impl Session {
    pub(super) fn new(client: HadalClient<Channel>, model: String, options: &Options) -> Self {
        let messages: Vec<_> = options.system.iter().map(|text| message("system", text)).collect();
        let system = messages.len();
        Self { client, model, sampling: options.sampling.message(), thinking: options.thinking, messages, system }
    }

    fn reset(&mut self) {
        self.messages.truncate(self.system);
    }

    fn request(&self) -> v1::ChatRequest {
        v1::ChatRequest {
            model: self.model.clone(),
            messages: self.messages.clone(),
            sampling: Some(self.sampling.clone()),
            options: None,
            thinking: self.thinking,
        }
    }

    /// Keeps an answer. Thoughts are no part of a conversation.
    fn answered(&mut self, answer: &str) {
        let said = answer.rsplit_once("</think>").map_or(answer, |(_, said)| said);
        self.messages.push(message("assistant", said));
    }

    /// Forgets a turn that has no answer.
    fn unanswered(&mut self) {
        self.messages.pop();
    }
}

/// Where a conversation is held.
pub(super) struct Terminal<W> {
    pub(super) lines: mpsc::Receiver<io::Result<String>>,
    pub(super) interrupts: mpsc::Receiver<()>,
    pub(super) out: W,
    /// A person types the lines: prompts, hints, and errors do not end the conversation.
    pub(super) interactive: bool,
    /// Output goes to a terminal, whose control characters a model must not send.
    pub(super) printable: bool,
}

/// How a turn ended.
enum Turn {
    Answered,
    Stopped,
    Failed(tonic::Status),
}

const COMMANDS: &str = "\
/reset  forget the conversation
/exit   end it, as Ctrl-D does
/help   this list
Ctrl-C stops an answer. Anything else is said to the model.";

impl<W: Write> Terminal<W> {
    /// Talks until the lines end.
    pub(super) async fn talk(&mut self, mut session: Session) -> Result<Exit, Fault> {
        while let Some(line) = self.line().await? {
            match line.trim() {
                "" => {}
                "/exit" | "/quit" => break,
                "/reset" => {
                    session.reset();
                    self.hint("the conversation is forgotten");
                }
                "/help" => eprintln!("{COMMANDS}"),
                unknown if unknown.starts_with('/') => {
                    self.hint(&format!("there is no command {unknown}; /help lists those that are"));
                }
                _ => self.turn(&mut session, line).await?,
            }
        }
        Ok(Exit::Ok)
    }

    /// What a person is told beside the conversation.
    fn hint(&self, text: &str) {
        if self.interactive {
            eprintln!("{text}");
        }
    }

    /// The next line; none at the end and at Ctrl-C.
    async fn line(&mut self) -> Result<Option<String>, Fault> {
        if self.interactive {
            eprint!("> ");
        }
        tokio::select! {
            line = self.lines.recv() => match line {
                Some(Err(error)) => Err(Fault::new(Exit::Io, error)),
                line => {
                    if line.is_none() && self.interactive {
                        eprintln!();
                    }
                    Ok(line.and_then(Result::ok))
                }
            },
            _ = self.interrupts.recv() => {
                self.hint("");
                Ok(None)
            }
        }
    }

    async fn turn(&mut self, session: &mut Session, line: String) -> Result<(), Fault> {
        session.messages.push(message("user", line));
        let mut answer = String::new();
        let ended = self.answer(session, &mut answer).await;
        if !answer.is_empty() && !answer.ends_with('\n') {
            self.print("\n")?;
        }
        // What was said before the end is part of the conversation.
        if answer.is_empty() {
            session.unanswered()
        } else {
            session.answered(&answer)
        }
        match ended? {
            Turn::Answered => Ok(()),
            Turn::Stopped => {
                self.hint("[stopped]");
                Ok(())
            }
            Turn::Failed(status) if self.interactive => {
                eprintln!("hadal: {}", explain(&status));
                Ok(())
            }
            Turn::Failed(status) => Err(refused(&status)),
        }
    }

    /// Prints an answer as it comes. Whoever returns drops the stream, and that cancels what was not finished.
    async fn answer(&mut self, session: &mut Session, answer: &mut String) -> Result<Turn, Fault> {
        // A press from before the question was sent is not meant for its answer.
        while self.interrupts.try_recv().is_ok() {}
        let mut client = session.client.clone();
        let opened = tokio::select! {
            opened = client.chat(session.request()) => opened,
            _ = self.interrupts.recv() => return Ok(Turn::Stopped),
        };
        let mut events = match opened {
            Ok(events) => events.into_inner(),
            Err(status) => return Ok(Turn::Failed(status)),
        };
        loop {
            let event = tokio::select! {
                event = events.message() => event,
                _ = self.interrupts.recv() => return Ok(Turn::Stopped),
            };
            match event {
                Ok(Some(v1::ChatResponse { event: Some(Event::Delta(delta)) })) => {
                    self.print(&delta.text)?;
                    answer.push_str(&delta.text);
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Turn::Answered),
                Err(status) => return Ok(Turn::Failed(status)),
            }
        }
    }

    fn print(&mut self, text: &str) -> Result<(), Fault> {
        let shown: String = if self.printable { text.chars().filter(shows).collect() } else { text.to_owned() };
        let written = self.out.write_all(shown.as_bytes()).and_then(|()| self.out.flush());
        written.map_err(|error| Fault::new(Exit::Io, error))
    }
}

/// An escape sequence of a model's could rename the window, or worse.
fn shows(c: &char) -> bool {
    !c.is_control() || matches!(c, '\n' | '\t')
}
