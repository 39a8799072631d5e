//! Finish reasons of answers, across providers.

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The answer is complete.
    Stop,
    /// A limit cut it off.
    Length,
    /// The provider or the model withheld it or its rest.
    ContentFilter,
}

impl FinishReason {
    /// The reason for a provider's own word; `None` for an unknown word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        let word = word.trim().to_ascii_lowercase();
        match word.as_str() {
            "" | "stop" | "end_turn" | "stop_sequence" | "eos" | "eos_token" | "end" | "completed" => {
                Some(Self::Stop)
            }
            "length" | "max_tokens" | "max_output_tokens" | "max_completion_tokens" | "model_length" => {
                Some(Self::Length)
            }
            "content_filter" | "content_filtered" | "refusal" | "safety" | "recitation" | "blocklist"
            | "prohibited_content" | "spii" | "image_safety" | "moderation" => Some(Self::ContentFilter),
            _ => None,
        }
    }

    /// Name in responses, as in OpenAI's API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finish_reasons_of_all_providers_are_mapped() {
        for (word, reason) in [
            ("stop", Some(FinishReason::Stop)),
            ("STOP", Some(FinishReason::Stop)),
            ("end_turn", Some(FinishReason::Stop)),
            ("length", Some(FinishReason::Length)),
            ("max_tokens", Some(FinishReason::Length)),
            ("MAX_TOKENS", Some(FinishReason::Length)),
            ("content_filter", Some(FinishReason::ContentFilter)),
            ("refusal", Some(FinishReason::ContentFilter)),
            ("SAFETY", Some(FinishReason::ContentFilter)),
            ("tool_calls", None),
        ] {
            assert_eq!(FinishReason::of(word), reason, "{word}");
        }
        for reason in [FinishReason::Stop, FinishReason::Length, FinishReason::ContentFilter] {
            assert_eq!(FinishReason::of(reason.as_str()), Some(reason));
        }
    }
}
