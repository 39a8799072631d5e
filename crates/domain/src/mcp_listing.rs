//! What an MCP server offers beside its tools: resources and prompts. They are shown, and plans do not use them.

/// What an MCP server offers beside its tools.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct McpListing {
    /// Its resources, in its order.
    pub resources: Vec<McpResource>,
    /// Its prompts, in its order.
    pub prompts: Vec<McpPrompt>,
    /// Whether it has more than are listed.
    pub is_truncated: bool,
}

/// A resource of an MCP server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct McpResource {
    /// Its address, or a template of addresses (RFC 6570).
    pub uri: String,
    /// Name for readers.
    pub name: String,
    /// Purpose.
    pub description: String,
    /// Type of its content; empty when it is not known.
    pub mime_type: String,
    /// Whether `uri` is a template.
    pub is_template: bool,
}

/// A prompt of an MCP server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct McpPrompt {
    /// Name, which is unique for its server.
    pub name: String,
    /// Purpose.
    pub description: String,
    /// Its arguments.
    pub arguments: Vec<McpPromptArgument>,
}

/// An argument of a prompt, which is a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct McpPromptArgument {
    /// Name.
    pub name: String,
    /// Purpose.
    pub description: String,
    /// Whether the prompt needs it.
    pub is_required: bool,
}
