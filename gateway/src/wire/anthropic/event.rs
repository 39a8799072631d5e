//! `POST /v1/messages` with `stream`: the events of an answer.

use phoenix_domain::json::Object;
use serde::Serialize;
use utoipa::ToSchema;

use super::message::{Message, MessageUsage};
use crate::wire::answer_writer::Frame;

/// Data of an event. Its name is its type.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = MessageEvent)]
pub(crate) enum MessageEvent {
    /// The answer begins.
    MessageStart {
        /// The message, without content.
        message: Message,
    },
    /// A block begins.
    ContentBlockStart {
        /// Index of the block.
        index: usize,
        /// The block, without its text.
        #[schema(value_type = Object)]
        content_block: Object,
    },
    /// A part of a block.
    ContentBlockDelta {
        /// Index of the block.
        index: usize,
        /// `text_delta`, `thinking_delta`, `signature_delta` or `input_json_delta`.
        #[schema(value_type = Object)]
        delta: Object,
    },
    /// A block ends.
    ContentBlockStop {
        /// Index of the block.
        index: usize,
    },
    /// The end of the message.
    MessageDelta {
        /// Why it ended.
        delta: Ending,
        /// All tokens.
        usage: MessageUsage,
    },
    /// The last event.
    MessageStop {},
}

/// Why an answer ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MessageEnding)]
pub(crate) struct Ending {
    /// As in a message.
    #[schema(value_type = String)]
    pub(super) stop_reason: &'static str,
    /// Always null.
    #[schema(value_type = Option<String>, required)]
    pub(super) stop_sequence: (),
}

impl MessageEvent {
    const fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop {} => "message_stop",
        }
    }

    /// The event of a stream.
    pub(super) fn frame(&self) -> Frame {
        // Strings, numbers and JSON can always be written.
        Frame { name: Some(self.name()), data: serde_json::to_string(self).unwrap_or_default() }
    }
}
