//! Chat templates: Jinja as Hugging Face uses it, with a bound on work. A template comes from the sealed model and is
//! trusted; what it renders is not, and [`crate::tokenizer`] keeps contents from becoming control tokens.

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;

use crate::tokenizer::Tokenizer;

mod json;
mod source;
mod time;

/// Instructions of the template engine that one rendering may take: the largest template known, over a conversation
/// of a thousand messages, takes a tenth of it.
const FUEL: u64 = 5_000_000;
const RECURSION_MAX: usize = 64;
const TEMPLATE: &str = "chat";

/// Why a conversation was not rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The model has no chat template.
    #[error("the model has no chat template; use plain completions")]
    Missing,
    /// The template is not Jinja that this version understands.
    #[error("the model's chat template is refused at line {line}: {reason}")]
    Malformed {
        /// The line.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The template does not accept the conversation (`raise_exception`), such as two users in a row.
    #[error("the model's chat template does not accept the conversation: {0}")]
    Refused(String),
    /// The template went wrong.
    #[error("the model's chat template failed: {0}")]
    Failed(String),
    /// The template, or the text, needs more work than is allowed.
    #[error("the conversation takes too much work to render")]
    TooMuchWork,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Who deploys the model.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

/// One message. Not printable: contents are secrets.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// What a rendering depends on beside the messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderOptions {
    /// Whether the beginning of the assistant's answer is written at the end.
    pub add_generation_prompt: bool,
    /// Seconds since 1970, for templates that write the date.
    pub now: u64,
}

/// A compiled template and the tokens that it may write.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Compiles a model's template.
    ///
    /// # Errors
    /// [`TemplateError::Malformed`].
    pub fn new(template: &str, tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        let special = tokenizer.special();
        let text = |id: Option<u32>| {
            id.and_then(|id| tokenizer.markup_text(id))
                .unwrap_or_default()
                .to_owned()
        };
        Self::with_tokens(template, text(special.bos), text(special.eos))
    }

    /// As [`Self::new`], with the texts of the tokens that begin and end a text.
    ///
    /// # Errors
    /// [`TemplateError::Malformed`].
    pub fn with_tokens(
        template: &str,
        bos_token: String,
        eos_token: String,
    ) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", json::tojson);
        let template = source::adapt(template);
        environment
            .add_template_owned(TEMPLATE, template)
            .map_err(|error| TemplateError::Malformed {
                line: error.line().unwrap_or_default(),
                reason: error.detail().unwrap_or("it cannot be read").to_owned(),
            })?;
        Ok(Self {
            environment,
            bos_token,
            eos_token,
        })
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn render(
        &self,
        messages: &[ChatMessage],
        options: &RenderOptions,
    ) -> Result<String, TemplateError> {
        self.render_values(Value::from_serialize(messages), Value::UNDEFINED, options)
    }

    /// Renders messages and tools that are JSON-like values, as Hugging Face's `apply_chat_template` takes them.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn render_values(
        &self,
        messages: Value,
        tools: Value,
        options: &RenderOptions,
    ) -> Result<String, TemplateError> {
        let context = minijinja::context! {
            messages => messages,
            tools => if tools.is_undefined() { Value::from(()) } else { tools },
            documents => Value::from(()),
            bos_token => self.bos_token,
            eos_token => self.eos_token,
            add_generation_prompt => options.add_generation_prompt,
            strftime_now => clock(options.now),
        };
        let template = self.environment.get_template(TEMPLATE).map_err(failed)?;
        template.render(context).map_err(failed)
    }
}

/// `strftime_now(format)` at a fixed time.
fn clock(now: u64) -> Value {
    Value::from_function(move |format: String| time::strftime(now, &format))
}

/// What a template raises is kept apart from what goes wrong by itself.
const RAISED: &str = "raised: ";

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(
        ErrorKind::InvalidOperation,
        format!("{RAISED}{message}"),
    ))
}

fn failed(error: Error) -> TemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::TooMuchWork;
    }
    let raised = error
        .detail()
        .and_then(|detail| detail.strip_prefix(RAISED));
    match raised {
        Some(message) => TemplateError::Refused(message.chars().take(200).collect()),
        // The detail may quote a value, and values are secrets: the kind and the line say enough.
        None => TemplateError::Failed(format!(
            "{} in line {}",
            error.kind(),
            error.line().unwrap_or_default()
        )),
    }
}
