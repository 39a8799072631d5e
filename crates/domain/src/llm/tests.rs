//! The settings as people write them, and what must never be seen of them.

use super::*;

const KEY: &str = "sk-live-0123456789";

fn described(provider: &str, model: &str) -> LlmDescription {
    LlmDescription { provider: provider.into(), model: model.into() }
}

fn parse(toml: &str) -> Result<LlmSettings, toml::de::Error> {
    toml::from_str(toml)
}

#[test]
fn documented_table_round_trips_through_json() {
    let settings = parse(
        r#"
        default_provider = "anthropic"
        system_prompt = "Be brief."
        [openai]
        api_key = "sk-live-0123456789"
        base_url = "https://api.openai.com/v1"
        model_name = "gpt-4o"
        [ollama]
        model_name = "qwen3"
        "#,
    )
    .unwrap();
    assert_eq!(settings.default_provider, DefaultProvider::Named(ProviderKind::Anthropic));
    assert_eq!(settings.max_tokens, DEFAULT_MAX_TOKENS);
    assert_eq!(settings.provider(ProviderKind::OpenAi).api_key.unwrap().expose(), KEY);
    assert_eq!(settings.provider(ProviderKind::Ollama).base_url, "http://127.0.0.1:11434");
    assert_eq!(settings.provider(ProviderKind::Ollama).model_name, "qwen3");
    let json = serde_json::to_string(&settings).unwrap();
    assert_eq!(serde_json::from_str::<LlmSettings>(&json).unwrap(), settings);
}

#[test]
fn unknown_keys_providers_and_values_are_rejected() {
    for wrong in
        ["default_provder = 'auto'", "max_tokens = 0", "[openai]\nkey = 'x'", "[cohere]\napi_key = 'x'"]
    {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn serde_names_equal_text_names() {
    for &kind in ProviderKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        assert_eq!(DefaultProvider::from(kind.as_str().to_owned()), DefaultProvider::Named(kind));
        assert_eq!(ProviderKind::of_name(kind.as_str()), Some(kind));
    }
}

#[test]
fn secret_is_absent_from_formatted_settings() {
    let mut settings = LlmSettings::default();
    settings.grok.api_key = Some(Secret::from(format!("{KEY}\n")));
    assert_eq!(settings.grok.api_key.as_ref().unwrap().expose(), KEY);
    let provider = settings.provider(ProviderKind::Grok);
    for shown in [format!("{settings:#?}"), format!("{provider:?}"), provider.api_key.unwrap().to_string()] {
        assert!(!shown.contains(KEY) && shown.contains("[redacted]"), "{shown}");
    }
}

#[test]
fn environment_fills_unset_settings_only() {
    let mut settings = LlmSettings::default();
    settings.openai.api_key = Some(Secret::from(KEY.to_owned()));
    settings.anthropic.api_key = Some(Secret::from(" ".to_owned()));
    settings.fill_from_environment(|name| match name {
        "OPENAI_API_KEY" => Some("other".into()),
        "ANTHROPIC_API_KEY" => Some("from-env".into()),
        "GEMINI_API_KEY" => Some(String::new()),
        "GOOGLE_API_KEY" => Some("google".into()),
        "OLLAMA_HOST" => Some("0.0.0.0:9999".into()),
        _ => None,
    });
    let key = |kind| settings.provider(kind).api_key.map(Secret::expose);
    assert_eq!(key(ProviderKind::OpenAi), Some(KEY));
    assert_eq!(key(ProviderKind::Anthropic), Some("from-env"));
    assert_eq!(key(ProviderKind::Gemini), Some("google"));
    assert_eq!(key(ProviderKind::Grok), None);
    assert_eq!(settings.provider(ProviderKind::Ollama).base_url, "http://127.0.0.1:9999");
}

#[test]
fn base_url_variables_are_read_for_every_provider() {
    for &kind in ProviderKind::ALL {
        for &variable in kind.base_url_variables() {
            let value = "http://proxy.example.com:4000";
            let mut settings = LlmSettings::default();
            let filled = settings.fill_from_environment(|name| (name == variable).then(|| value.into()));
            assert_eq!(filled, [(kind, variable)]);
            let version = match kind {
                ProviderKind::Anthropic => "/v1",
                ProviderKind::Gemini => "/v1beta",
                _ => "",
            };
            assert_eq!(settings.provider(kind).base_url, format!("{value}{version}"), "{variable}");
            assert!(settings.problems(&filled).is_empty(), "{variable}");
            // The same with the version, and a setting of one's own before any variable.
            let mut settings = LlmSettings::default();
            settings.fill_from_environment(|name| (name == variable).then(|| format!("{value}/v1/")));
            let expected = if kind == ProviderKind::Ollama { "" } else { "/v1" };
            assert_eq!(settings.provider(kind).base_url, format!("{value}{expected}"), "{variable}");
            settings.section_mut(kind).base_url = Some("http://mine/v9".into());
            assert!(settings.fill_from_environment(|_| Some(value.into())).iter().all(|(of, _)| *of != kind));
            assert_eq!(settings.provider(kind).base_url, "http://mine/v9");
        }
    }
}

#[test]
fn base_url_problem_names_its_setting_or_variable() {
    let mut settings = LlmSettings::default();
    settings.openai.base_url = Some("https://api.openai.com/v1?version=2".into());
    let filled = settings.fill_from_environment(|name| {
        (name == "ANTHROPIC_BASE_URL").then(|| "https://api.anthropic.com/v1/messages".into())
    });
    let problems = settings.problems(&filled);
    let names: Vec<_> = problems.iter().map(|(setting, _)| setting.as_str()).collect();
    assert_eq!(names, ["llm.openai.base_url", "ANTHROPIC_BASE_URL"]);
    assert!(problems[1].1.ends_with("write https://api.anthropic.com/v1"), "{problems:?}");
}

#[test]
fn auto_selects_ollama_with_a_model_or_base_url() {
    let mut settings = LlmSettings::default();
    settings.fill_from_environment(|name| (name == "OLLAMA_HOST").then(|| "0.0.0.0:11434".into()));
    assert!(!settings.selects_ollama(), "the default base URL");
    settings.ollama.base_url = Some("http://gpu-box:11434/v1".into());
    assert!(settings.selects_ollama() && settings.chosen_provider().is_none());
    assert_eq!(settings.describe(), described("ollama", "auto"));
    settings.ollama = ProviderSettings { model_name: Some("qwen3".into()), ..ProviderSettings::default() };
    assert_eq!(settings.chosen_provider().unwrap().model_name, "qwen3");
    settings.openai.api_key = Some(Secret::from(KEY.to_owned()));
    assert_eq!(settings.describe().provider, "openai");
}

#[test]
fn auto_selects_the_first_key_in_documented_order() {
    let mut settings = LlmSettings::default();
    assert_eq!(settings.describe(), described("auto", "auto"));
    for &kind in ProviderKind::ALL.iter().rev() {
        settings.section_mut(kind).api_key = Some(Secret::from(KEY.to_owned()));
        assert_eq!(settings.chosen_provider().unwrap().kind, Some(kind));
        assert_eq!(settings.describe().provider, kind.as_str());
    }
    settings.default_provider = DefaultProvider::Offline;
    assert_eq!(settings.describe(), described("offline", "none"));
    settings.default_provider = DefaultProvider::Named(ProviderKind::Ollama);
    assert_eq!(settings.describe(), described("ollama", "llama3.2"));
}

#[test]
fn key_is_required_by_public_base_urls_only() {
    let mut settings = LlmSettings::default();
    assert!(settings.provider(ProviderKind::OpenAi).lacks_key());
    assert!(!settings.provider(ProviderKind::LmStudio).lacks_key());
    settings.openai.base_url = Some("http://127.0.0.1:8000/v1/".into());
    assert!(!settings.provider(ProviderKind::OpenAi).lacks_key());
    assert_eq!(settings.provider(ProviderKind::OpenAi).base_url, "http://127.0.0.1:8000/v1");
}

#[test]
fn name_of_a_model_selects_its_provider() {
    let settings = parse(
        "[openrouter]\nmodel_name = 'mistralai/mistral-large'\n[providers.lab]\nbase_url = 'http://lab:8000/v1/'\nmodel_name = 'm'\n",
    )
    .unwrap();
    for (name, provider, model) in [
        ("anthropic/claude-x", "anthropic", "claude-x"),
        ("anthropic", "anthropic", ProviderKind::Anthropic.default_model()),
        ("openrouter/auto", "openrouter", "openrouter/auto"),
        ("openrouter/openai/gpt-x", "openrouter", "openai/gpt-x"),
        ("openrouter", "openrouter", "mistralai/mistral-large"),
        ("lab/org/model:7b", "lab", "org/model:7b"),
        ("lab", "lab", "m"),
    ] {
        let target = settings.target(name).unwrap();
        assert_eq!((target.name, target.model_name), (provider, model), "{name}");
        assert_eq!(settings.target(&target.target()).unwrap(), target, "{name}");
    }
    assert!(settings.target("meta-llama/llama-4").is_none());
    assert_eq!(settings.configured_models(), ["openrouter/mistralai/mistral-large", "lab/m"]);
    let lab = settings.find("lab").unwrap();
    assert_eq!(
        (lab.base_url, lab.dialect(), lab.lacks_key()),
        ("http://lab:8000/v1", Dialect::OpenAi, false)
    );
    assert_eq!(lab.setting("base_url"), "llm.providers.lab.base_url");
}

#[test]
fn selection_problem_names_its_setting() {
    let settings = parse(
        r#"
        default_provider = "skynet"
        fallback = ["ollama/qwen3", "gpt-x"]
        [providers.openai]
        base_url = "http://a/v1"
        model_name = "m"
        [providers.lab]
        base_url = "http://a/v1/chat/completions"
        [providers."a b"]
        [providers.phoenix]
        base_url = "http://a/v1"
        model_name = "m"
        "#,
    )
    .unwrap();
    let problems = settings.problems(&[]);
    let names: Vec<_> = problems.iter().map(|(setting, _)| setting.as_str()).collect();
    assert_eq!(
        names,
        [
            "llm.default_provider",
            "llm.fallback[1]",
            "llm.providers.a b",
            "llm.providers.a b.base_url",
            "llm.providers.a b.model_name",
            "llm.providers.lab.base_url",
            "llm.providers.lab.model_name",
            "llm.providers.openai",
            "llm.providers.phoenix",
        ]
    );
    assert!(problems[0].1.contains("`lab`") && problems[0].1.contains("`anthropic`"), "{problems:?}");
}

#[test]
fn timeouts_of_a_provider_precede_the_general_ones() {
    let settings = parse(
        "first_token_timeout_secs = 20\ntimeout_secs = 100\n[ollama]\nfirst_token_timeout_secs = 90\nstall_timeout_secs = 5\n\
         timeout_secs = 300",
    )
    .unwrap();
    let seconds = |kind| {
        let provider = settings.provider(kind);
        let limits = [provider.first_token_timeout, Some(provider.stall_timeout), provider.total_timeout];
        limits.map(|limit| limit.map(|limit| limit.as_secs()))
    };
    assert_eq!(seconds(ProviderKind::Ollama), [Some(90), Some(5), Some(300)]);
    assert_eq!(seconds(ProviderKind::OpenAi), [Some(20), Some(60), Some(100)]);
}

#[test]
fn configured_model_with_an_announced_end_is_listed() {
    let settings = parse(
        "default_provider = 'openai'\nfallback = ['anthropic/claude-sonnet-4-5', 'ollama/x']\n[openai]\nmodel_name = 'gpt-4o'",
    )
    .unwrap();
    let ends: Vec<_> =
        settings.retired_models().map(|(provider, entry)| (provider.name, entry.end)).collect();
    assert_eq!(ends, [("openai", "2027-01-14"), ("anthropic", "2026-11-30")]);
}
