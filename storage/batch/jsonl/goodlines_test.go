package jsonl

import "strings"

const url = `"url":"/v1/chat/completions"`

// goodLines has lines and what Check reads of them.
var goodLines = []struct{ name, line, id, body, model string }{
	{"plain", good, "a", `{"model":"m"}`, "m"},
	{"Python's spacing", `{"custom_id": "a", "method": "POST", ` + url + `, "body": {"model": "m"}}`, "a", `{"model": "m"}`, "m"},
	{"white space everywhere", " {\t\"body\" : {\r} , \"method\"\t:\"POST\"," + url + ", \"custom_id\" : \"a\" } \t\r", "a", "{\r}", ""},
	{"escaped names", `{"custom\u005Fid":"a","\u006dethod":"POST","\u0075\u0072\u006C":"/v1/embeddings","bod\u0079":{"m\u006fdel":"m"}}`,
		"a", `{"m\u006fdel":"m"}`, "m"},
	{"escaped values", `{"custom_id":"\"\\\/\b\f\n\r\t\u0000\u00e9\uD83D\ude00.","method":"\u0050OST","url":"\/v1\/embeddings","body":{"model":"org\/m"}}`,
		"\"\\/\b\f\n\r\t\x00é😀.", `{"model":"org\/m"}`, "org/m"},
	{"UTF-8 of every length", `{"custom_id":"aé€😀\ufffd` + "\ufffd" + `","method":"POST",` + url + `,"body":{"model":"ü"}}`, "aé€😀\ufffd\ufffd", `{"model":"ü"}`, "ü"},
	{"custom_id of 512 bytes", `{"custom_id":"` + strings.Repeat("é", 256) + `","method":"POST",` + url + `,"body":{}}`, strings.Repeat("é", 256), `{}`, ""},
	{"model null", head + `{"model":null}}`, "a", `{"model":null}`, ""},
	{"model empty", head + `{"model":""}}`, "a", `{"model":""}`, ""},
	{"model elsewhere", head + `{"a":{"model":"x","stream":true},"b":[{"n":9}]}}`, "a", `{"a":{"model":"x","stream":true},"b":[{"n":9}]}`, ""},
	{"half a pair in the body", head + `{"a":"\ud800","b\udc00":1,"model":"m"}}`, "a", `{"a":"\ud800","b\udc00":1,"model":"m"}`, "m"},
	{"members twice that spool does not read", head + `{"a":1,"a":2}}`, "a", `{"a":1,"a":2}`, ""},
	{"stream false", head + `{"stream":false}}`, "a", `{"stream":false}`, ""},
	{"stream null", head + `{"stream":null}}`, "a", `{"stream":null}`, ""},
	{"numbers", head + `{"a":[0,-0,1,-1,10,0.5,1e5,1E-5,1.25e+10,1e999,123456789012345678901234567890]}}`, "a",
		`{"a":[0,-0,1,-1,10,0.5,1e5,1E-5,1.25e+10,1e999,123456789012345678901234567890]}`, ""},
	{"empty values", head + `{"a":{},"b":[],"c":"","d":[{ },[ ]]}}`, "a", `{"a":{},"b":[],"c":"","d":[{ },[ ]]}`, ""},
	{"at the caps", head + `{"n":4,"max_tokens":1000,"max_completion_tokens":1.000e3,"max_output_tokens":null}}`, "a",
		`{"n":4,"max_tokens":1000,"max_completion_tokens":1.000e3,"max_output_tokens":null}`, ""},
	{"far below the caps", head + `{"n":-99999999999999999999,"max_tokens":-1e400}}`, "a", `{"n":-99999999999999999999,"max_tokens":-1e400}`, ""},
	{"as deep as may be", head + `{"a":` + strings.Repeat("[", 18) + strings.Repeat("]", 18) + `}}`, "a",
		`{"a":` + strings.Repeat("[", 18) + strings.Repeat("]", 18) + `}`, ""},
	{"as long as may be", good + strings.Repeat(" ", 4096-len(good)), "a", `{"model":"m"}`, "m"},
}
