//! `[llm]`.

use phoenix_domain::llm::{LlmSettings, Provider, ProviderKind, ProviderSettings};

use crate::config::{
    env::Lookup,
    file::PhoenixConfig,
    values::{Origin, SettingValue, list, masked, masked_url, seconds},
};

/// Adds the settings of models.
pub(super) fn add(config: &PhoenixConfig, env: Lookup<'_>, rows: &mut Vec<SettingValue>) {
    let LlmSettings {
        default_provider,
        max_tokens,
        fallback,
        first_token_timeout_secs,
        stall_timeout_secs,
        system_prompt,
        openai: _,
        anthropic: _,
        gemini: _,
        grok: _,
        openrouter: _,
        ollama: _,
        lmstudio: _,
        providers,
        fallback_after_output,
        timeout_secs,
    } = &config.llm;
    let first_token =
        first_token_timeout_secs.map_or_else(|| "the task's deadline".into(), |secs| format!("{secs} s"));
    let mut add = |name: String, value: String, variables: &[&str]| {
        let variable = || variables.iter().find(|name| env(name).is_some());
        let environment = || variable().map(|name| Origin::Environment((*name).to_owned()));
        let origin = config.file.origin(&name).or_else(environment).unwrap_or(Origin::Default);
        rows.push(SettingValue { name, value, origin });
    };
    add("llm.default_provider".into(), default_provider.to_string(), &[]);
    add("llm.max_tokens".into(), max_tokens.to_string(), &[]);
    add("llm.fallback".into(), list(fallback), &[]);
    add("llm.first_token_timeout_secs".into(), first_token, &[]);
    add("llm.fallback_after_output".into(), fallback_after_output.to_string(), &[]);
    let timeout = timeout_secs.map_or_else(|| "the task's deadline".into(), |secs| format!("{secs} s"));
    add("llm.timeout_secs".into(), timeout, &[]);
    add("llm.stall_timeout_secs".into(), format!("{stall_timeout_secs} s"), &[]);
    add("llm.system_prompt".into(), system_prompt.clone().unwrap_or_else(|| "none".into()), &[]);
    let known = ProviderKind::ALL.iter().map(|kind| (config.llm.provider(*kind), config.llm.section(*kind)));
    let own = providers.iter().filter_map(|(name, settings)| Some((config.llm.find(name)?, settings)));
    for (provider, settings) in known.chain(own) {
        let Provider {
            name: _,
            kind,
            api_key,
            base_url,
            model_name,
            first_token_timeout: _,
            stall_timeout,
            total_timeout: _,
        } = provider;
        let (keys, addresses) =
            kind.map_or((&[][..], &[][..]), |kind| (kind.key_variables(), kind.base_url_variables()));
        add(provider.setting("api_key"), masked(api_key.is_some()), keys);
        add(provider.setting("base_url"), masked_url(base_url), addresses);
        add(provider.setting("model_name"), model_name.into(), &[]);
        let ProviderSettings { first_token_timeout_secs, stall_timeout_secs, .. } = settings;
        if let Some(secs) = first_token_timeout_secs {
            add(provider.setting("first_token_timeout_secs"), format!("{secs} s"), &[]);
        }
        if stall_timeout_secs.is_some() {
            add(provider.setting("stall_timeout_secs"), seconds(stall_timeout), &[]);
        }
    }
}
