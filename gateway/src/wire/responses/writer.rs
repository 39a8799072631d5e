//! Writes the events of a response. Each has a type, which is also its name, and a number.

use axum::http::StatusCode;
use phoenix_domain::{
    CorrelationId, OrchestratorError, OrchestratorErrorCode,
    json::{Json, Object},
};

use super::{
    item::Item,
    response::{Head, Response, ending},
};
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr, Schema,
        schema::{AdditionalProperties, Type},
    },
};

use crate::wire::{
    answer::Answer,
    answer_writer::{AnswerWriter, Frame},
    pieces::{Piece, Pieces},
};

/// Data of an event.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct ResponseEvent(Object);

impl PartialSchema for ResponseEvent {
    fn schema() -> RefOr<Schema> {
        let kind =
            ObjectBuilder::new().schema_type(Type::String).description(Some("As the name of the event."));
        let number =
            ObjectBuilder::new().schema_type(Type::Integer).description(Some("Number of the event, from 0."));
        ObjectBuilder::new()
            .description(Some("An event of a response; its other members depend on its type."))
            .property("type", kind)
            .required("type")
            .property("sequence_number", number)
            .required("sequence_number")
            .additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .into()
    }
}

impl ToSchema for ResponseEvent {
    fn name() -> std::borrow::Cow<'static, str> {
        "ResponseEvent".into()
    }
}

/// Writes the events of one response.
#[derive(Debug)]
pub(crate) struct ResponseWriter {
    head: Head,
    pieces: Pieces,
    /// Number of the next event.
    number: u64,
    is_started: bool,
    /// Items that have ended.
    output: Vec<Json>,
    /// Number of the first items that are void.
    discarded: usize,
    open: Option<Item>,
    /// Events that are written and not returned.
    frames: Vec<Frame>,
}

impl ResponseWriter {
    /// A writer for a response.
    pub(crate) fn new(head: Head) -> Self {
        Self {
            head,
            pieces: Pieces::default(),
            number: 0,
            is_started: false,
            output: Vec::new(),
            discarded: 0,
            open: None,
            frames: Vec::new(),
        }
    }

    fn write<const N: usize>(&mut self, kind: &'static str, members: [(&str, Json); N]) {
        let common = [("type", kind.into()), ("sequence_number", self.number.into())];
        let members = common.into_iter().chain(members);
        let event = ResponseEvent(members.map(|(name, value)| (name.to_owned(), value)).collect());
        self.number += 1;
        // JSON can always be written.
        self.frames.push(Frame { name: Some(kind), data: serde_json::to_string(&event).unwrap_or_default() });
    }

    fn write_response(&mut self, kind: &'static str, response: Response) {
        self.write(kind, [("response", response.into_members().into())]);
    }

    /// The first event of a response that waits.
    pub(crate) fn created(&mut self) -> Vec<Frame> {
        if self.number == 0 {
            self.write_response("response.created", self.head.pending("queued"));
        }
        self.take_frames()
    }

    /// The events of a response that starts.
    pub(crate) fn started(&mut self) -> Vec<Frame> {
        self.start();
        self.take_frames()
    }

    /// The events of a part of the answer, as [`AnswerWriter::part`].
    ///
    /// # Errors
    /// As [`AnswerWriter::part`].
    pub(crate) fn said(&mut self, text: &str, delta: Option<&str>) -> Result<Vec<Frame>, OrchestratorError> {
        for piece in self.pieces.of_part(text, delta)? {
            self.piece(piece);
        }
        Ok(self.take_frames())
    }

    /// The events of an answer that breaks off: the open item ends as incomplete, and no item so far is part of the response.
    pub(crate) fn discard(&mut self) -> Vec<Frame> {
        self.close("incomplete");
        (self.discarded, self.pieces) = (self.output.len(), Pieces::default());
        self.take_frames()
    }

    /// The events of what was not said of the answer, and of its end.
    pub(crate) fn completed(&mut self, answer: &Answer) -> Vec<Frame> {
        self.start();
        for piece in self.pieces.of_rest(answer) {
            self.piece(piece);
        }
        let (status, _) = ending(&answer.finish);
        self.close(status);
        let response = self.head.ended(answer, self.kept());
        let kind = if status == "completed" { "response.completed" } else { "response.incomplete" };
        self.write_response(kind, response);
        self.take_frames()
    }

    /// The events of a response that fails or is cancelled.
    pub(crate) fn failed(&mut self, error: &OrchestratorError) -> Vec<Frame> {
        self.start();
        self.close("incomplete");
        self.write("error", members_of(error));
        let is_cancelled = error.code == OrchestratorErrorCode::Cancelled;
        let status = if is_cancelled { "cancelled" } else { "failed" };
        let response = self.head.failed(status, error, self.kept());
        self.write_response("response.failed", response);
        self.take_frames()
    }

    /// An event that is not the response's: its stream ends, and can be continued after the number `last`.
    pub(crate) fn interrupted(&self, error: &OrchestratorError, last: u64) -> Frame {
        let common = [("type", "error".into()), ("sequence_number", last.into())];
        let members = common.into_iter().chain(members_of(error));
        let event = ResponseEvent(members.map(|(name, value)| (name.to_owned(), value)).collect());
        Frame { name: Some("error"), data: serde_json::to_string(&event).unwrap_or_default() }
    }

    /// The items of the response.
    fn kept(&self) -> Vec<Json> {
        self.output.get(self.discarded..).unwrap_or_default().to_vec()
    }

    fn start(&mut self) {
        if self.is_started {
            return;
        }
        self.is_started = true;
        let response = self.head.pending("in_progress");
        if self.number == 0 {
            self.write_response("response.created", response.clone());
        }
        self.write_response("response.in_progress", response);
    }

    fn piece(&mut self, piece: Piece) {
        self.start();
        if !self.open.as_ref().is_some_and(|item| item.takes(&piece)) {
            self.close("completed");
            self.open = Item::begin(self.head.plan_id, self.output.len(), &piece);
            if let Some(item) = self.open.clone() {
                self.begin(&item);
            }
        }
        let Some(item) = &mut self.open else { return };
        let (more, id) = (item.add(piece), item.id.clone());
        let kind = kinds(item).0;
        let is_text = matches!(kind, "response.output_text.delta");
        if !more.is_empty() {
            self.write_text(kind, &id, "delta", more, is_text);
        }
    }

    fn begin(&mut self, item: &Item) {
        let index = Json::from(self.output.len());
        let begun = item.begun().into();
        self.write("response.output_item.added", [("output_index", index.clone()), ("item", begun)]);
        if let Some(part) = item.part("") {
            let place = [
                ("item_id", item.id.as_str().into()),
                ("output_index", index),
                ("content_index", 0_u64.into()),
            ];
            let [id, output, content] = place;
            self.write("response.content_part.added", [id, output, content, ("part", part.into())]);
        }
    }

    /// Ends the open item with `status`.
    fn close(&mut self, status: &str) {
        let Some(item) = self.open.take() else { return };
        let index = Json::from(self.output.len());
        let (_, kind, member) = kinds(&item);
        self.write_text(
            kind,
            &item.id,
            member,
            item.text().to_owned(),
            member == "text" && kind.contains("output"),
        );
        if let Some(part) = item.part(item.text()) {
            let place = [
                ("item_id", item.id.as_str().into()),
                ("output_index", index.clone()),
                ("content_index", 0_u64.into()),
            ];
            let [id, output, content] = place;
            self.write("response.content_part.done", [id, output, content, ("part", part.into())]);
        }
        let ended = Json::from(item.ended(status));
        self.write("response.output_item.done", [("output_index", index), ("item", ended.clone())]);
        self.output.push(ended);
    }

    /// Writes an event about the text of the open item.
    fn write_text(&mut self, kind: &'static str, id: &str, member: &str, text: String, has_logprobs: bool) {
        let (id, index) = (("item_id", Json::from(id)), ("output_index", Json::from(self.output.len())));
        let text = (member, Json::from(text));
        if kind.contains("function_call") {
            self.write(kind, [id, index, text]);
        } else if has_logprobs {
            self.write(
                kind,
                [id, index, ("content_index", 0_u64.into()), text, ("logprobs", Json::Array(Vec::new()))],
            );
        } else {
            self.write(kind, [id, index, ("content_index", 0_u64.into()), text]);
        }
    }

    fn take_frames(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.frames)
    }
}

/// The events with a part of an item's text and with all of it, and the member that holds it.
const fn kinds(item: &Item) -> (&'static str, &'static str, &'static str) {
    use super::item::Content;
    match item.content {
        Content::Reasoning { .. } => {
            ("response.reasoning_text.delta", "response.reasoning_text.done", "text")
        }
        Content::Text(_) => ("response.output_text.delta", "response.output_text.done", "text"),
        Content::Call { .. } => {
            ("response.function_call_arguments.delta", "response.function_call_arguments.done", "arguments")
        }
    }
}

/// Members of an event about an error.
fn members_of(error: &OrchestratorError) -> [(&'static str, Json); 3] {
    let param = error.details.get("field").map_or(Json::Null, |field| field.as_str().into());
    [("code", error.code.as_str().into()), ("message", error.message.as_str().into()), ("param", param)]
}

impl AnswerWriter for ResponseWriter {
    fn has_started(&self) -> bool {
        self.number > 0
    }

    fn part(&mut self, text: &str, delta: Option<&str>) -> Result<Vec<Frame>, OrchestratorError> {
        self.said(text, delta)
    }

    fn finish(&mut self, answer: &Answer) -> Vec<Frame> {
        self.completed(answer)
    }

    fn fail(&mut self, _status: StatusCode, error: OrchestratorError, _id: CorrelationId) -> Vec<Frame> {
        self.failed(&error)
    }
}
