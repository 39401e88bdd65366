//! A default written into the configuration file, which stays as it is otherwise.

use toml::de::DeTable;

/// The text of a file with this value of a key, in the place of the one that it has, or else behind
/// everything.
///
/// # Errors
/// When the text is no TOML.
pub fn with_value(text: &str, name: &str, value: &str) -> Result<String, toml::de::Error> {
    // A text of JSON is one of TOML, escapes and all.
    let value = serde_json::Value::from(value).to_string();
    if let Some(replaced) = replaced(text, name, &value)? {
        return Ok(replaced);
    }
    let end = match diffucoder::text::lines::is_crlf(text.as_bytes()) && text.contains('\n') {
        true => "\r\n",
        false => "\n",
    };
    let gap = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        end
    };
    Ok(format!("{text}{gap}{name} = {value}{end}"))
}

/// The text with a switch off, if it is there.
///
/// # Errors
/// When the text is no TOML.
pub fn without_switch(text: &str, name: &str) -> Result<String, toml::de::Error> {
    Ok(replaced(text, name, "false")?.unwrap_or_else(|| text.to_string()))
}

/// The text with this in the place of a key's value; `None` where it has no such key.
fn replaced(text: &str, name: &str, value: &str) -> Result<Option<String>, toml::de::Error> {
    let table = DeTable::parse(text)?;
    let mut entries = table.get_ref().iter();
    let old = entries.find(|(key, _)| key.get_ref() == name);
    let span = old.map(|(_, old)| old.span());
    Ok(span.map(|span| format!("{}{value}{}", &text[..span.start], &text[span.end..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_takes_the_place_of_another_or_comes_last() {
        let saved = |text: &str| with_value(text, "mode", "fast").unwrap();
        assert_eq!(saved(""), "mode = \"fast\"\n");
        assert_eq!(
            saved("# mine\ntop-k = 7"),
            "# mine\ntop-k = 7\nmode = \"fast\"\n"
        );
        assert_eq!(
            saved("mode = 'exact' # slow\r\nseed = 1\r\n"),
            "mode = \"fast\" # slow\r\nseed = 1\r\n"
        );
        assert_eq!(saved("seed = 1\r\n"), "seed = 1\r\nmode = \"fast\"\r\n");
        assert_eq!(
            saved("stop = ['mode = 1']\n"),
            "stop = ['mode = 1']\nmode = \"fast\"\n"
        );
        assert!(with_value("mode = ", "mode", "fast").is_err());
        let path = with_value("", "model", "C:\\a \"b\"").unwrap();
        let read: toml::Table = toml::from_str(&path).unwrap();
        assert_eq!(read["model"].as_str(), Some("C:\\a \"b\""));
    }

    #[test]
    fn a_switch_is_turned_off() {
        let off = |text: &str| without_switch(text, "exact").unwrap();
        assert_eq!(
            off("exact = true # all\nseed = 1\n"),
            "exact = false # all\nseed = 1\n"
        );
        assert_eq!(off("exact = 'on'\n"), "exact = false\n");
        for text in ["exact = false\n", "seed = 1\n", ""] {
            assert_eq!(off(text), text);
        }
    }
}
