//! What an MCP server offers beside its tools, on the wire.

use phoenix_domain::mcp_listing::{McpListing, McpPrompt, McpPromptArgument, McpResource};

use crate::common;

impl From<&McpListing> for common::McpListing {
    fn from(McpListing { resources, prompts, is_truncated }: &McpListing) -> Self {
        Self {
            resources: resources.iter().cloned().map(Into::into).collect(),
            prompts: prompts.iter().cloned().map(Into::into).collect(),
            is_truncated: *is_truncated,
        }
    }
}

impl From<common::McpListing> for McpListing {
    fn from(common::McpListing { resources, prompts, is_truncated }: common::McpListing) -> Self {
        Self {
            resources: resources.into_iter().map(Into::into).collect(),
            prompts: prompts.into_iter().map(Into::into).collect(),
            is_truncated,
        }
    }
}

/// Conversions in both directions between types with the same fields.
macro_rules! same_fields {
    ($($name:ident { $($field:ident),* })*) => {$(
        impl From<$name> for common::$name {
            fn from($name { $($field),* }: $name) -> Self {
                Self { $($field),* }
            }
        }

        impl From<common::$name> for $name {
            fn from(common::$name { $($field),* }: common::$name) -> Self {
                Self { $($field),* }
            }
        }
    )*};
}

same_fields! {
    McpResource { uri, name, description, mime_type, is_template }
    McpPromptArgument { name, description, is_required }
}

impl From<McpPrompt> for common::McpPrompt {
    fn from(McpPrompt { name, description, arguments }: McpPrompt) -> Self {
        Self { name, description, arguments: arguments.into_iter().map(Into::into).collect() }
    }
}

impl From<common::McpPrompt> for McpPrompt {
    fn from(common::McpPrompt { name, description, arguments }: common::McpPrompt) -> Self {
        Self { name, description, arguments: arguments.into_iter().map(Into::into).collect() }
    }
}
