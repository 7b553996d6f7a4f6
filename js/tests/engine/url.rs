//! URL and URLSearchParams, by examples from the URL standard and its tests' topics.

use crate::rig::value;

#[test]
fn url_is_parsed_and_written_as_the_standard_has_it() {
    for (input, base, expected) in [
        ("http://example.com", "", "http://example.com/"),
        ("  HTTP://EXAMPLE.com:80/a/../b/./c?q#f\n", "", "http://example.com/b/c?q#f"),
        ("https://user:p%40ss@host:8443/x", "", "https://user:p%40ss@host:8443/x"),
        ("http://a b/", "", "null"),
        ("http://[::1]:3000/", "", "http://[::1]:3000/"),
        ("http://[1:0:0:2:0:0:0:3]/", "", "http://[1:0:0:2::3]/"),
        ("http://[::ffff:1.2.3.4]/", "", "http://[::ffff:102:304]/"),
        ("http://[1::2::3]/", "", "null"),
        ("http://0x7f.1/", "", "http://127.0.0.1/"),
        ("http://2130706433/", "", "http://127.0.0.1/"),
        ("http://017700000001", "", "http://127.0.0.1/"),
        ("http://256.256.256.256/", "", "null"),
        ("http://1.2.3.4.5/", "", "null"),
        ("http://foo.0x4/", "", "null"),
        ("http://%65xample.com/", "", "http://example.com/"),
        ("http://ex%2fample.com/", "", "null"),
        ("http://bücher.example/", "", "http://xn--bcher-kva.example/"),
        ("http://ｅｘａｍｐｌｅ。com/", "", "http://example.com/"),
        ("http://日本語.jp", "", "http://xn--wgv71a119e.jp/"),
        ("http:\\\\host\\path", "", "http://host/path"),
        ("http:///host/path", "", "http://host/path"),
        ("http://host:99999/", "", "null"),
        ("http://host:/", "", "http://host/"),
        ("http://:80/", "", "null"),
        ("http://@/x", "", "null"),
        ("http://a@b@c/", "", "http://a%40b@c/"),
        ("mailto:a@b.c", "", "mailto:a@b.c"),
        ("data:text/plain,hé?x#y", "", "data:text/plain,h%C3%A9?x#y"),
        ("javascript:alert(1)", "", "javascript:alert(1)"),
        ("foo://host/../a", "", "foo://host/a"),
        ("foo:/a/../..//b", "", "foo:/.//b"),
        ("foo://", "", "foo://"),
        ("file:///C|/a/../..", "", "file:///C:/"),
        ("file://localhost/etc", "", "file:///etc"),
        ("file:a", "file:///x/y", "file:///x/a"),
        ("/d", "http://h/a/b?c#e", "http://h/d"),
        ("d", "http://h/a/b?c#e", "http://h/a/d"),
        ("../d?x", "http://h/a/b/c?c#e", "http://h/a/d?x"),
        ("//other/x", "https://h/a", "https://other/x"),
        ("?q", "http://h/a?p#f", "http://h/a?q"),
        ("#g", "http://h/a?p#f", "http://h/a?p#g"),
        ("", "http://h/a?p#f", "http://h/a?p"),
        ("http:x", "http://h/a/b", "http://h/a/x"),
        ("https:x", "http://h/a/b", "https://x/"),
        ("#f", "mailto:a", "mailto:a#f"),
        ("x", "mailto:a", "null"),
        ("x", "", "null"),
        ("http://h/%7e/%2e%2E/ü ?ü'<>#ü`", "", "http://h/%C3%BC%20?%C3%BC%27%3C%3E#%C3%BC%60"),
        ("ht\ntp://h/a\tb", "", "http://h/ab"),
        ("http://h/a;b,c=d&e:f@g!$'()*+", "", "http://h/a;b,c=d&e:f@g!$'()*+"),
        ("wss://h:443/", "", "wss://h/"),
        ("blob:https://h:8/x", "", "blob:https://h:8/x"),
    ] {
        let base = if base.is_empty() { "undefined".to_owned() } else { format!("{base:?}") };
        let input =
            input.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t").replace('"', "\\\"");
        let found = value(&format!("String(URL.parse(\"{input}\", {base}))"));
        assert_eq!(found, format!("\"{expected}\""), "{input} {base}");
    }
}

#[test]
fn url_has_its_parts_and_they_can_be_set() {
    for (source, expected) in [
        (
            "const u = new URL('https://u:p@h.example:8080/a/b?x=1#f'); [u.protocol, u.origin, u.username, u.password, u.host, u.hostname, u.port, u.pathname, u.search, u.hash]",
            r##"["https:","https://h.example:8080","u","p","h.example:8080","h.example","8080","/a/b","?x=1","#f"]"##,
        ),
        (
            "const u = new URL('http://h/'); u.protocol = 'https'; u.host = 'g:81'; u.pathname = 'a b/../c'; u.search = 'q=ü'; u.hash = 'z'; u.username = 'me@'; u.href",
            r#""https://me%40@g:81/c?q=%C3%BC#z""#,
        ),
        (
            "const u = new URL('http://h:81/'); u.port = '80'; u.hostname = 'x y'; u.protocol = 'mailto'; u.href",
            r#""http://h/""#,
        ),
        (
            "const u = new URL('http://h:81/'); u.port = '82abc'; u.hostname = 'k'; u.href",
            r#""http://k:82/""#,
        ),
        (
            "const u = new URL('mailto:a'); u.host = 'x'; u.pathname = 'b'; u.username = 'c'; u.href",
            r#""mailto:a""#,
        ),
        (
            "const u = new URL('http://h/?a=1'); u.searchParams.append('b', 'é&'); u.searchParams.delete('a'); [u.href, u.search]",
            r#"["http://h/?b=%C3%A9%26","?b=%C3%A9%26"]"#,
        ),
        ("const u = new URL('http://h/?a=1'); u.search = '?c=3'; [...u.searchParams]", r#"[["c","3"]]"#),
        (
            "const u = new URL('http://h/?a=1'); u.href = 'http://g/?d=4'; [u.searchParams.get('d'), u.searchParams.get('a')]",
            r#"["4",null]"#,
        ),
        ("JSON.stringify({ u: new URL('http://h') })", r#""{\"u\":\"http://h/\"}""#),
        (
            "[URL.canParse('x'), URL.canParse('x', 'http://h'), new URL('file:///a').origin, new URL('blob:https://h:8/x').origin]",
            r#"[false,true,"null","https://h:8"]"#,
        ),
        (
            "try { new URL('nope') } catch (e) { [e.name, e.message] }",
            r#"["TypeError","not a URL: \"nope\""]"#,
        ),
        ("Object.prototype.toString.call(new URL('http://h'))", r#""[object URL]""#),
    ] {
        assert_eq!(value(source), expected, "{source}");
    }
}

#[test]
fn search_params_are_pairs_in_order() {
    for (source, expected) in [
        ("String(new URLSearchParams('?a=1&b=2+3&a=%C3%A9&c&=d&%'))", r#""a=1&b=2+3&a=%C3%A9&c=&=d&%25=""#),
        ("String(new URLSearchParams({ x: '1', y: 'a b' }))", r#""x=1&y=a+b""#),
        ("String(new URLSearchParams([['a', 1], ['b', '~*']]))", r#""a=1&b=%7E*""#),
        ("String(new URLSearchParams(new URLSearchParams('k=v')))", r#""k=v""#),
        (
            "const p = new URLSearchParams('b=1&a=2&b=3'); p.sort(); p.set('b', 9); [p.toString(), p.size, p.getAll('b'), p.has('a', '2'), p.has('a', '3'), p.get('z')]",
            r#"["a=2&b=9",2,["9"],true,false,null]"#,
        ),
        (
            "const p = new URLSearchParams('a=1&b=2'); [[...p.keys()], [...p.values()], [...p], [...p.entries()].length]",
            r#"[["a","b"],["1","2"],[["a","1"],["b","2"]],2]"#,
        ),
        (
            "const p = new URLSearchParams('a=1&a=2'); p.delete('a', '1'); const out = []; p.forEach((v, k) => out.push(k + v)); out",
            r#"["a2"]"#,
        ),
        ("try { new URLSearchParams([['a']]) } catch (e) { e.name }", r#""TypeError""#),
        ("[...new URLSearchParams('a=%F0%9F%98%80&b=\\ud800')]", "[[\"a\",\"😀\"],[\"b\",\"\u{fffd}\"]]"),
    ] {
        assert_eq!(value(source), expected, "{source}");
    }
}
