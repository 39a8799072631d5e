//! What a server offers beside its tools: resources and prompts. They are only shown, so nothing waits for them, and what goes wrong with
//! them has no effect on the server.

use std::{convert::Infallible, sync::Arc, time::Duration};

use phoenix_domain::{
    AgentName,
    json::Json,
    mcp_listing::{McpListing, McpPrompt, McpPromptArgument, McpResource},
};
use tokio::time::timeout;

use super::{
    connection::Connection,
    handshake::Handshake,
    pages::{self, List, Read},
};
use crate::{
    failure::AttemptFailure,
    published::{News, Publish},
};

/// Limits of what is listed of one server.
const MAX_RESOURCES: usize = 512;
const MAX_PROMPTS: usize = 128;
const MAX_ARGUMENTS: usize = 32;
const MAX_RESOURCE_BYTES: usize = 128 * 1024;
const MAX_PROMPT_BYTES: usize = 64 * 1024;

/// Limit of an address in bytes. A longer one is left out: shortened, it would be another one.
const MAX_URI_BYTES: usize = 2048;

/// Limits of texts in characters.
const MAX_NAME_CHARS: usize = 256;
const MAX_DESCRIPTION_CHARS: usize = 500;

/// Shortest and longest time between two readings.
const SHORTEST_REFRESH: Duration = Duration::from_secs(5);
const LONGEST_REFRESH: Duration = Duration::from_secs(60 * 60);

/// Time between two readings of a server at an address, which has no way to say that its lists have changed, and does not say how
/// long they are valid.
const REMOTE_REFRESH: Duration = Duration::from_secs(10 * 60);

const RESOURCES: List = List { method: "resources/list", member: "resources" };
const TEMPLATES: List = List { method: "resources/templates/list", member: "resourceTemplates" };
const PROMPTS: List = List { method: "prompts/list", member: "prompts" };

/// What a server says that it offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offers {
    pub(super) resources: bool,
    pub(super) prompts: bool,
}

impl Offers {
    /// What a server with these capabilities offers.
    pub(super) fn of(capabilities: &Json) -> Self {
        Self { resources: !capabilities["resources"].is_null(), prompts: !capabilities["prompts"].is_null() }
    }
}

/// Keeps the lists of one server up to date.
pub(super) struct Lister<'s> {
    pub(super) agent: &'s AgentName,
    pub(super) handshake: &'s Handshake,
    pub(super) connection: &'s Arc<Connection>,
    pub(super) publish: &'s Publish,
    pub(super) offers: Offers,
    /// Time limit of a reading.
    pub(super) timeout: Duration,
    /// Whether the server is at an address.
    pub(super) is_remote: bool,
}

impl Lister<'_> {
    /// Reads and publishes the lists, and again whenever they change.
    pub(super) async fn keep(self) -> Infallible {
        let mut known = McpListing::default();
        let mut valid_for = self.read(&mut known).await;
        (self.publish)(News::Listing(known.clone()));
        loop {
            let refresh = valid_for.map(|time| time.clamp(SHORTEST_REFRESH, LONGEST_REFRESH));
            let refresh = refresh.or(self.is_remote.then_some(REMOTE_REFRESH)).filter(|_| self.asks());
            tokio::select! {
                () = tokio::time::sleep(refresh.unwrap_or_default()), if refresh.is_some() => {}
                () = self.connection.lists_changed.notified() => {}
            }
            let before = known.clone();
            valid_for = self.read(&mut known).await;
            if known != before {
                (self.publish)(News::Listing(known.clone()));
            }
            tokio::time::sleep(SHORTEST_REFRESH).await;
        }
    }

    const fn asks(&self) -> bool {
        self.offers.resources || self.offers.prompts
    }

    /// Reads the lists. One that cannot be read stays as it was. Returns how long they are valid.
    async fn read(&self, known: &mut McpListing) -> Option<Duration> {
        let mut listing = Collector::default();
        let mut valid_for = None;
        let mut is_complete = true;
        if self.offers.resources {
            match self.within_time(self.read_resources(&mut listing)).await {
                Some(read) => valid_for = read.valid_for,
                None => {
                    listing = Collector::with_resources_of(known);
                    is_complete = false;
                }
            }
        }
        if self.offers.prompts {
            match self.within_time(self.read_prompts(&mut listing)).await {
                Some(Read { valid_for: time, .. }) => {
                    valid_for = [valid_for, time].into_iter().flatten().min();
                }
                None => {
                    listing.keep_prompts(known);
                    is_complete = false;
                }
            }
        }
        *known = listing.finish();
        // What could not be read is read again, not too soon.
        if is_complete { valid_for } else { Some(valid_for.unwrap_or(REMOTE_REFRESH).max(REMOTE_REFRESH)) }
    }

    async fn within_time(&self, reading: impl Future<Output = Result<Read, AttemptFailure>>) -> Option<Read> {
        let reason = match timeout(self.timeout, reading).await {
            Ok(Ok(read)) => return Some(read),
            Ok(Err(failure)) => failure.description,
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(agent = %self.agent, reason, "resources or prompts cannot be listed; the former ones stay");
        None
    }

    async fn read_resources(&self, listing: &mut Collector) -> Result<Read, AttemptFailure> {
        let Self { handshake, connection, .. } = self;
        let add = |items: &[Json]| items.iter().all(|item| listing.add_resource(item, false));
        let read = pages::read(handshake, connection, RESOURCES, add).await?;
        listing.note(read);
        // Many servers have resources and no templates, and not even the method.
        let add = |items: &[Json]| items.iter().all(|item| listing.add_resource(item, true));
        if let Ok(templates) = pages::read(handshake, connection, TEMPLATES, add).await {
            listing.note(templates);
        }
        Ok(read)
    }

    async fn read_prompts(&self, listing: &mut Collector) -> Result<Read, AttemptFailure> {
        let add = |items: &[Json]| items.iter().all(|item| listing.add_prompt(item));
        let read = pages::read(self.handshake, self.connection, PROMPTS, add).await?;
        listing.note(read);
        Ok(read)
    }
}

/// Collects what is listed, within its limits.
#[derive(Debug, Default)]
struct Collector {
    listing: McpListing,
    resource_bytes: usize,
    prompt_bytes: usize,
}

impl Collector {
    /// Adds a resource or a template, if it is valid. Returns whether there is room for more.
    fn add_resource(&mut self, item: &Json, is_template: bool) -> bool {
        let uri = item[if is_template { "uriTemplate" } else { "uri" }].as_str().unwrap_or_default();
        if uri.is_empty() || uri.len() > MAX_URI_BYTES || uri.chars().any(char::is_control) {
            return true;
        }
        let resource = McpResource {
            uri: uri.to_owned(),
            name: text(&item["name"], MAX_NAME_CHARS),
            description: purpose(item),
            mime_type: text(&item["mimeType"], MAX_NAME_CHARS),
            is_template,
        };
        let McpResource { uri, name, description, mime_type, .. } = &resource;
        let bytes = uri.len() + name.len() + description.len() + mime_type.len();
        if self.listing.resources.len() >= MAX_RESOURCES || self.resource_bytes + bytes > MAX_RESOURCE_BYTES {
            self.listing.is_truncated = true;
            return false;
        }
        self.resource_bytes += bytes;
        self.listing.resources.push(resource);
        true
    }

    /// Adds a prompt, if it is valid. Returns whether there is room for more.
    fn add_prompt(&mut self, item: &Json) -> bool {
        let name = text(&item["name"], MAX_NAME_CHARS);
        if name.is_empty() {
            return true;
        }
        let arguments = item["arguments"].as_array().into_iter().flatten().take(MAX_ARGUMENTS);
        let arguments: Vec<_> = arguments
            .map(|argument| McpPromptArgument {
                name: text(&argument["name"], MAX_NAME_CHARS),
                description: purpose(argument),
                is_required: argument["required"] == true,
            })
            .filter(|argument| !argument.name.is_empty())
            .collect();
        let prompt = McpPrompt { name, description: purpose(item), arguments };
        let of_arguments = prompt.arguments.iter().map(|one| one.name.len() + one.description.len());
        let bytes = prompt.name.len() + prompt.description.len() + of_arguments.sum::<usize>();
        if self.listing.prompts.len() >= MAX_PROMPTS || self.prompt_bytes + bytes > MAX_PROMPT_BYTES {
            self.listing.is_truncated = true;
            return false;
        }
        self.prompt_bytes += bytes;
        self.listing.prompts.push(prompt);
        true
    }

    const fn note(&mut self, read: Read) {
        self.listing.is_truncated |= read.has_more;
    }

    fn with_resources_of(known: &McpListing) -> Self {
        let McpListing { resources, is_truncated, .. } = known.clone();
        let listing = McpListing { resources, is_truncated, ..McpListing::default() };
        Self { listing, ..Self::default() }
    }

    fn keep_prompts(&mut self, known: &McpListing) {
        self.listing.prompts.clone_from(&known.prompts);
        self.listing.is_truncated |= known.is_truncated;
    }

    fn finish(self) -> McpListing {
        self.listing
    }
}

/// A text without control characters, shortened to `limit` characters.
fn text(value: &Json, limit: usize) -> String {
    let text = value.as_str().unwrap_or_default().trim();
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).take(limit).collect()
}

/// The description, or else the title.
fn purpose(item: &Json) -> String {
    let description = text(&item["description"], MAX_DESCRIPTION_CHARS);
    if description.is_empty() { text(&item["title"], MAX_NAME_CHARS) } else { description }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn collected(resources: Value, prompts: Value) -> McpListing {
        let mut collector = Collector::default();
        let all = |items: Value| Json::from(items).as_array().unwrap().to_vec();
        let _ = all(resources).iter().all(|item| collector.add_resource(item, false));
        let _ = all(prompts).iter().all(|item| collector.add_prompt(item));
        collector.finish()
    }

    #[test]
    fn items_that_are_not_valid_are_left_out_alone() {
        let resources = json!([
            null, 7, "x", {}, {"uri": 7}, {"uri": ""}, {"uri": "a\u{1b}b"}, {"uri": "x".repeat(MAX_URI_BYTES + 1)},
            {"uri": "file:///a", "name": " a\nb ", "title": "An a", "mimeType": []},
        ]);
        let prompts = json!([
            null, {"name": ""}, {"name": 7},
            {"name": "greet", "description": "x".repeat(2 * MAX_DESCRIPTION_CHARS), "arguments": [
                {"name": "who", "required": true}, {"name": "how", "required": "yes"}, null, {},
            ]},
            {"name": "other", "arguments": "none"},
        ]);
        let McpListing { resources, prompts, is_truncated } = collected(resources, prompts);
        let [resource] = &resources[..] else { panic!("{resources:?}") };
        assert_eq!(
            (&*resource.uri, &*resource.name, &*resource.description, &*resource.mime_type),
            ("file:///a", "a b", "An a", "")
        );
        let [greet, other] = &prompts[..] else { panic!("{prompts:?}") };
        assert_eq!((greet.description.len(), other.arguments.len()), (MAX_DESCRIPTION_CHARS, 0));
        let arguments: Vec<_> = greet.arguments.iter().map(|one| (&*one.name, one.is_required)).collect();
        assert_eq!(arguments, [("who", true), ("how", false)]);
        assert!(!is_truncated);
    }

    #[test]
    fn number_and_size_of_items_are_bounded() {
        let many = |name: &str, count: usize| (0..count).map(|_| json!({name: "x"})).collect::<Value>();
        let listing = collected(many("uri", MAX_RESOURCES + 1), many("name", MAX_PROMPTS + 1));
        assert_eq!((listing.resources.len(), listing.prompts.len()), (MAX_RESOURCES, MAX_PROMPTS));
        assert!(listing.is_truncated);
        let large = (0..MAX_RESOURCES).map(|_| json!({"uri": "x".repeat(MAX_URI_BYTES)})).collect();
        let listing = collected(large, many("name", 2));
        assert_eq!((listing.resources.len(), listing.prompts.len()), (MAX_RESOURCE_BYTES / MAX_URI_BYTES, 2));
        assert!(listing.is_truncated);
    }
}
