//! Items of a response's output.

use phoenix_domain::{
    PlanId,
    json::{Json, Object},
};

use crate::wire::{
    answer::Answer,
    pieces::{Piece, Pieces},
};

/// An item that pieces add up to.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Identifier of the item.
    pub(super) id: String,
    /// What it is.
    pub(super) content: Content,
}

/// Content of an item.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// Reasoning: its text, and Anthropic's signed blocks, which a client returns.
    Reasoning {
        text: String,
        blocks: Vec<Json>,
    },
    Text(String),
    Call {
        id: String,
        name: String,
        arguments: String,
    },
}

impl Item {
    /// The item at `index` of the response of a plan, which begins with `piece`; `None` for a piece that begins none.
    pub(super) fn begin(plan_id: PlanId, index: usize, piece: &Piece) -> Option<Self> {
        let (prefix, content) = match piece {
            Piece::Reasoning(_) | Piece::Thinking(_) => {
                ("rs", Content::Reasoning { text: String::new(), blocks: Vec::new() })
            }
            Piece::Text(_) => ("msg", Content::Text(String::new())),
            Piece::Call { id, name } => {
                let content = Content::Call { id: id.clone(), name: name.clone(), arguments: String::new() };
                ("fc", content)
            }
            Piece::Arguments(_) => return None,
        };
        Some(Self { id: format!("{prefix}_{plan_id}_{index}"), content })
    }

    /// Whether `piece` continues the item.
    pub(super) const fn takes(&self, piece: &Piece) -> bool {
        matches!(
            (&self.content, piece),
            (Content::Reasoning { .. }, Piece::Reasoning(_) | Piece::Thinking(_))
                | (Content::Text(_), Piece::Text(_))
                | (Content::Call { .. }, Piece::Arguments(_))
        )
    }

    /// Adds `piece`, and returns the text that it adds.
    pub(super) fn add(&mut self, piece: Piece) -> String {
        let (text, more) = match (&mut self.content, piece) {
            (Content::Reasoning { text, blocks }, Piece::Thinking(block)) => {
                // The text of a signed block was a piece before it, unless the answer is whole.
                let said = block.get("thinking").and_then(Json::as_str).unwrap_or_default();
                let more = if text.ends_with(said) { String::new() } else { said.to_owned() };
                blocks.push(block.into());
                (text, more)
            }
            (Content::Reasoning { text, .. }, Piece::Reasoning(more))
            | (Content::Text(text), Piece::Text(more))
            | (Content::Call { arguments: text, .. }, Piece::Arguments(more)) => (text, more),
            _ => return String::new(),
        };
        text.push_str(&more);
        more
    }

    /// The item as it begins: without its content.
    pub(super) fn begun(&self) -> Object {
        match &self.content {
            Content::Reasoning { .. } => {
                self.object("reasoning", [("summary", list([])), ("status", "in_progress".into())])
            }
            Content::Text(_) => self.object(
                "message",
                [("status", "in_progress".into()), ("role", "assistant".into()), ("content", list([]))],
            ),
            Content::Call { id, name, .. } => self.call(id, name, "", "in_progress"),
        }
    }

    /// The part of the item that holds its text, with `text`; `None` for a call.
    pub(super) fn part(&self, text: &str) -> Option<Object> {
        match &self.content {
            Content::Reasoning { .. } => Some(object("reasoning_text", [("text", text.into())])),
            Content::Text(_) => Some(object(
                "output_text",
                [("text", text.into()), ("annotations", list([])), ("logprobs", list([]))],
            )),
            Content::Call { .. } => None,
        }
    }

    /// The text of the item: of a call, its arguments.
    pub(super) fn text(&self) -> &str {
        match &self.content {
            Content::Reasoning { text, .. } | Content::Text(text) | Content::Call { arguments: text, .. } => {
                text
            }
        }
    }

    /// The whole item with `status`: `completed` or `incomplete`.
    pub(super) fn ended(&self, status: &str) -> Object {
        let content = self.part(self.text()).map(Json::Object);
        match &self.content {
            Content::Reasoning { text, blocks } => {
                let content = content.filter(|_| !text.is_empty());
                let blocks = (!blocks.is_empty()).then(|| Json::Array(blocks.clone()).to_string());
                self.object(
                    "reasoning",
                    [
                        ("summary", list([])),
                        ("content", list(content)),
                        ("encrypted_content", blocks.map_or(Json::Null, Json::String)),
                        ("status", status.into()),
                    ],
                )
            }
            Content::Text(_) => self.object(
                "message",
                [("status", status.into()), ("role", "assistant".into()), ("content", list(content))],
            ),
            Content::Call { id, name, arguments } => self.call(id, name, arguments, status),
        }
    }

    fn call(&self, id: &str, name: &str, arguments: &str, status: &str) -> Object {
        self.object(
            "function_call",
            [
                ("status", status.into()),
                ("arguments", arguments.into()),
                ("call_id", id.into()),
                ("name", name.into()),
            ],
        )
    }

    fn object<const N: usize>(&self, kind: &str, members: [(&str, Json); N]) -> Object {
        let id = ("id".to_owned(), Json::from(self.id.as_str()));
        [id].into_iter().chain(object(kind, members)).collect()
    }
}

/// The items of a whole answer.
pub(super) fn of_answer(answer: &Answer, status: &str) -> Vec<Json> {
    let mut items: Vec<Item> = Vec::new();
    for piece in Pieces::default().of_rest(answer) {
        if !items.last().is_some_and(|item| item.takes(&piece)) {
            items.extend(Item::begin(answer.plan_id, items.len(), &piece));
        }
        if let Some(item) = items.last_mut() {
            item.add(piece);
        }
    }
    items.iter().map(|item| item.ended(status).into()).collect()
}

/// An object with a type.
pub(super) fn object<const N: usize>(kind: &str, members: [(&str, Json); N]) -> Object {
    let kind = [("type".to_owned(), kind.into())];
    kind.into_iter().chain(members.map(|(name, value)| (name.to_owned(), value))).collect()
}

fn list(items: impl IntoIterator<Item = Json>) -> Json {
    Json::Array(items.into_iter().collect())
}
