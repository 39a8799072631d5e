//! What an MCP server offers beside its tools.

use phoenix_proto::common;
use serde::Serialize;
use utoipa::ToSchema;

/// What an MCP server offers beside its tools. Plans do not use it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct McpListingV1 {
    /// Its resources, and templates of resources.
    resources: Vec<McpResourceV1>,
    /// Its prompts.
    prompts: Vec<McpPromptV1>,
    /// Whether it has more than are listed here.
    truncated: bool,
}

/// A resource of an MCP server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct McpResourceV1 {
    /// Its address, or a template of addresses (RFC 6570).
    #[schema(examples("file:///README.md"))]
    uri: String,
    /// Name for readers.
    name: String,
    /// Purpose.
    description: String,
    /// Type of its content; null when it is not known.
    #[schema(required)]
    mime_type: Option<String>,
    /// Whether `uri` is a template.
    template: bool,
}

/// A prompt of an MCP server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct McpPromptV1 {
    /// Name, which is unique for its server.
    name: String,
    /// Purpose.
    description: String,
    /// Its arguments, which are texts.
    arguments: Vec<McpPromptArgumentV1>,
}

/// An argument of a prompt.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct McpPromptArgumentV1 {
    /// Name.
    name: String,
    /// Purpose.
    description: String,
    /// Whether the prompt needs it.
    required: bool,
}

impl From<common::McpListing> for McpListingV1 {
    fn from(common::McpListing { resources, prompts, is_truncated }: common::McpListing) -> Self {
        let resource =
            |common::McpResource { uri, name, description, mime_type, is_template }| McpResourceV1 {
                uri,
                name,
                description,
                mime_type: Some(mime_type).filter(|kind| !kind.is_empty()),
                template: is_template,
            };
        let argument = |common::McpPromptArgument { name, description, is_required }| McpPromptArgumentV1 {
            name,
            description,
            required: is_required,
        };
        let prompt = |common::McpPrompt { name, description, arguments }| McpPromptV1 {
            name,
            description,
            arguments: arguments.into_iter().map(argument).collect(),
        };
        Self {
            resources: resources.into_iter().map(resource).collect(),
            prompts: prompts.into_iter().map(prompt).collect(),
            truncated: is_truncated,
        }
    }
}
