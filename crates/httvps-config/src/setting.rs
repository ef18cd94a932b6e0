//! What the table says of one setting, and the macro that reads the table.

use std::sync::LazyLock;

/// One row of the table of settings.
#[derive(Debug)]
pub struct Setting {
    /// The key in YAML, and the name of the field of [`super::Config`].
    pub key: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// The heading under which it is documented.
    pub group: &'static str,
    /// What it is, in full sentences.
    pub doc: &'static str,
    /// What is accepted, in words, without the range.
    pub kind: &'static str,
    /// The placeholder of its value in `--help`.
    pub placeholder: &'static str,
    /// The default as it would be written; none = required or absent.
    pub default: Option<&'static str>,
    /// Whether the gateway does not start without it.
    pub required: bool,
    /// The least and the greatest value.
    pub range: Option<(&'static str, &'static str)>,
    /// What zero means, where zero stands outside the range.
    pub zero: Option<&'static str>,
    /// Whether a YAML list is accepted.
    pub list: bool,
    /// Whether its value must not be shown. Such a setting has no flag.
    pub secret: bool,
}

static FLAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| super::SETTINGS.iter().map(|setting| setting.key.replace('_', "-")).collect());

/// A second name of a setting, in each of the places where it may be set.
#[derive(Debug)]
pub struct Alias {
    /// The key in YAML.
    pub key: String,
    /// The environment variable.
    pub env: String,
    /// The flag without its dashes.
    pub flag: String,
}

/// The settings of exit nodes are named after the first kind of node; they are of every kind, so each has a second name.
static ALIASES: LazyLock<Vec<Option<Alias>>> = LazyLock::new(|| {
    let alias = |setting: &Setting| {
        let rest = setting.key.strip_prefix("outline_")?;
        let key = format!("pool_{rest}");
        let env = format!("GATEWAY_{}", key.to_uppercase());
        Some(Alias { flag: key.replace('_', "-"), key, env })
    };
    super::SETTINGS.iter().map(alias).collect()
});

impl Setting {
    /// The flag without its dashes, such as `listen-addr`; secrets have none.
    pub fn flag(&self) -> Option<&'static str> {
        if self.secret {
            return None;
        }
        let index = super::SETTINGS.iter().position(|setting| setting.key == self.key)?;
        FLAGS.get(index).map(String::as_str)
    }

    /// The second name, if there is one.
    pub fn alias(&self) -> Option<&'static Alias> {
        let index = super::SETTINGS.iter().position(|setting| setting.key == self.key)?;
        ALIASES.get(index)?.as_ref()
    }

    /// The setting of a YAML key, or of the key of an alias.
    pub(super) fn of_key(key: &str) -> Option<&'static Self> {
        let has = |setting: &&Self| {
            setting.key == key || setting.alias().is_some_and(|alias| alias.key == key)
        };
        super::SETTINGS.iter().find(has)
    }

    /// Whether an environment variable is this setting's.
    pub(super) fn has_variable(&self, name: &str) -> bool {
        self.env == name || self.alias().is_some_and(|alias| alias.env == name)
    }

    /// What is accepted, with the range and the meaning of zero.
    pub fn accepted(&self) -> String {
        let mut text = self.kind.to_owned();
        if let Some((min, max)) = self.range {
            text = format!("{text}, from {min} to {max}");
        }
        if let Some(meaning) = self.zero {
            text = format!("{text}, or 0: {meaning}");
        }
        text
    }

    /// The description as one line.
    pub fn description(&self) -> String {
        self.doc.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// Makes the table, the `Config` struct and what reads it from the rows:
/// `key: type as kind, env NAME, default "…", range "…" to "…", zero "meaning";`
macro_rules! settings {
    ($(
        $group:literal {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $type:ty as $kind:ty, env $env:ident
                $(, default $default:literal)?
                $(, range $min:literal to $max:literal)?
                $(, zero $zero:literal)?;
            )+
        }
    )+) => {
        /// Every setting, in the order of the reference page.
        pub static SETTINGS: &[$crate::Setting] = &[$($(
            $crate::Setting {
                key: stringify!($key),
                env: stringify!($env),
                group: $group,
                doc: concat!($($doc,)+),
                kind: <$kind as $crate::kind::Kind<$type>>::ACCEPTED,
                placeholder: <$kind as $crate::kind::Kind<$type>>::PLACEHOLDER,
                default: settings!(@optional $($default)?),
                required: settings!(@none $($default)?)
                    && !<$kind as $crate::kind::Kind<$type>>::OPTIONAL,
                range: settings!(@optional $(($min, $max))?),
                zero: settings!(@optional $($zero)?),
                list: <$kind as $crate::kind::Kind<$type>>::LIST,
                secret: <$kind as $crate::kind::Kind<$type>>::SECRET,
            },
        )+)+];

        /// The settings of a gateway, checked; see docs/reference/settings.md for each.
        #[derive(Debug, Clone)]
        pub struct Config {
            $($( $(#[doc = $doc])+ pub $key: $type, )+)+
            /// Where each value came from, in the order of [`SETTINGS`].
            pub(super) sources: Vec<$crate::Source>,
        }

        impl Config {
            /// Takes each value from the first source that has it.
            pub(super) fn take(
                given: &$crate::given::Given<'_>,
            ) -> Result<Self, $crate::ConfigError> {
                let mut sources = Vec::with_capacity(SETTINGS.len());
                let mut rows = SETTINGS.iter();
                Ok(Self {
                    $($( $key: given.take::<$type, $kind>(&mut rows, &mut sources)?, )+)+
                    sources,
                })
            }

            /// The values as they would be written, in the order of [`SETTINGS`]; secrets as `***`.
            pub(super) fn values(&self) -> Vec<String> {
                vec![$($( <$kind as $crate::kind::Kind<$type>>::show(&self.$key), )+)+]
            }
        }
    };
    (@none) => { true };
    (@none $value:expr) => { false };
    (@optional) => { None };
    (@optional $value:expr) => { Some($value) };
}
pub(super) use settings;
