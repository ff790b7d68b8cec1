package jsonl

import "strings"

const (
	head = `{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":`
	good = head + `{"model":"m"}}`
)

// badLines has one line or more for each code that Check gives.
var badLines = []struct {
	name, line string
	code       Code
	column     int
	id         string // that is reported with it
	message    string
}{
	// invalid_json
	{
		"empty", ``,
		InvalidJSON, 1, "", `the line ends at byte 0 where a value should be: a request must be whole, and on one line`,
	},
	{
		"word", `hello`,
		InvalidJSON, 1, "", `found 'h' at byte 1 where a value should be`,
	},
	{
		"cut off in a string", `{"custom_id":"a","method":"PO`,
		InvalidJSON, 30, "a", `the line ends at byte 29 where the quote that ends a string should be: a request must be whole, and on one line`,
	},
	{
		"cut off in the body", head + `{"model":"m"`,
		InvalidJSON, 82, "a", `the line ends at byte 81 where a comma or } should be: a request must be whole, and on one line`,
	},
	{
		"cut off after a colon", `{"custom_id":`,
		InvalidJSON, 14, "", `the line ends at byte 13 where a value should be: a request must be whole, and on one line`,
	},
	{
		"pretty-printed", `{`,
		InvalidJSON, 2, "", `the line ends at byte 1 where a member name in double quotes should be: a request must be whole, and on one line`,
	},
	{
		"an array of requests", `[`,
		InvalidJSON, 2, "", `the line ends at byte 1 where a value should be: a request must be whole, and on one line`,
	},
	{
		"comma at the end", head + `{"model":"m",}}`,
		InvalidJSON, 83, "a", `found '}' at byte 83 where a member name in double quotes should be: is there a comma too many before it?`,
	},
	{
		"comma at the end of an array", head + `{"stop":["a",]}}`,
		InvalidJSON, 83, "a", `found ']' at byte 83 where a value should be: is there a comma too many before it?`,
	},
	{
		"two commas", head + `{"stop":["a",,"b"]}}`,
		InvalidJSON, 83, "a", `found ',' at byte 83 where a value should be`,
	},
	{
		"no colon", `{"custom_id" "a"}`,
		InvalidJSON, 14, "", `found '"' at byte 14 where a colon should be`,
	},
	{
		"no comma", `{"custom_id":"a" "method":"POST"}`,
		InvalidJSON, 18, "a", `found '"' at byte 18 where a comma or } should be`,
	},
	{
		"bracket closed by a brace", head + `{"stop":["a"}}`,
		InvalidJSON, 82, "a", `found '}' at byte 82 where a comma or ] should be`,
	},
	{
		"Python's dict", `{'custom_id': 'a'}`,
		InvalidJSON, 2, "", `found '\'' at byte 2 where a member name in double quotes should be: names and strings have "straight double quotes" in JSON`,
	},
	{
		"typographic quotes", `{“custom_id”: “a”}`,
		InvalidJSON, 2, "", `found '“' at byte 2 where a member name in double quotes should be: names and strings have "straight double quotes" in JSON`,
	},
	{
		"Python's None", head + `{"stop":None}}`,
		InvalidJSON, 78, "a", `found 'N' at byte 78 where a value should be: JSON has true, false and null; write lines with json.dumps`,
	},
	{
		"Python's True", head + `{"echo":True}}`,
		InvalidJSON, 78, "a", `found 'T' at byte 78 where a value should be: JSON has true, false and null; write lines with json.dumps`,
	},
	{
		"NaN", head + `{"temperature":NaN}}`,
		InvalidJSON, 85, "a", `found 'N' at byte 85 where a value should be: JSON has no NaN and no infinity`,
	},
	{
		"minus infinity", head + `{"temperature":-Infinity}}`,
		InvalidJSON, 86, "a", `found 'I' at byte 86 where a digit should be: JSON has no NaN and no infinity`,
	},
	{
		"misspelt literal", head + `{"echo":trup}}`,
		InvalidJSON, 78, "a", `found 't' at byte 78 where a value should be`,
	},
	{
		"cut off literal", `nul`,
		InvalidJSON, 1, "", `found 'n' at byte 1 where a value should be`,
	},
	{
		"leading zero", head + `{"n":01}}`,
		InvalidJSON, 76, "a", `found '1' at byte 76 where a comma or } should be`,
	},
	{
		"plus sign", head + `{"n":+1}}`,
		InvalidJSON, 75, "a", `found '+' at byte 75 where a value should be`,
	},
	{
		"no digit after the point", head + `{"n":1.}}`,
		InvalidJSON, 77, "a", `found '}' at byte 77 where a digit after the decimal point should be`,
	},
	{
		"no digit before the point", head + `{"n":.5}}`,
		InvalidJSON, 75, "a", `found '.' at byte 75 where a value should be`,
	},
	{
		"no digit in the exponent", head + `{"n":1e+}}`,
		InvalidJSON, 78, "a", `found '}' at byte 78 where a digit of the exponent should be`,
	},
	{
		"only a minus", head + `{"n":-}}`,
		InvalidJSON, 76, "a", `found '}' at byte 76 where a digit should be`,
	},
	{
		"hexadecimal number", head + `{"n":0x10}}`,
		InvalidJSON, 76, "a", `found 'x' at byte 76 where a comma or } should be`,
	},
	{
		"comment", head + `{} /* so */}`,
		InvalidJSON, 73, "a", `found '/' at byte 73 where a comma or } should be`,
	},
	{
		"raw tab in a string", head + "{\"prompt\":\"a\tb\"}}",
		InvalidJSON, 82, "a", `control byte 0x09 at byte 82, in a string: write it as \u0009`,
	},
	{
		"NUL in a string", head + "{\"prompt\":\"a\x00b\"}}",
		InvalidJSON, 82, "a", `control byte 0x00 at byte 82, in a string: write it as \u0000`,
	},
	{
		"NUL outside strings", "\x00\x00\x00",
		InvalidJSON, 1, "", `found '\x00' at byte 1 where a value should be`,
	},
	{
		"bad escape", head + `{"prompt":"C:\dir"}}`,
		InvalidJSON, 83, "a", `the escape sequence at byte 83 is none of JSON's: write a backslash itself as \\`,
	},
	{
		"bad hexadecimal digit", head + `{"prompt":"\u12g4"}}`,
		InvalidJSON, 81, "a", `the escape sequence at byte 81 is none of JSON's: write a backslash itself as \\`,
	},
	{
		"cut off escape", `{"custom_id":"\`,
		InvalidJSON, 16, "", `the line ends at byte 15 where the rest of an escape sequence should be: a request must be whole, and on one line`,
	},
	{
		"cut off hexadecimal digits", `{"custom_id":"\u12`,
		InvalidJSON, 19, "", `the line ends at byte 18 where the four hexadecimal digits of \u should be: a request must be whole, and on one line`,
	},
	{
		"no-break space", "{\u00a0\"custom_id\":\"a\"}",
		InvalidJSON, 2, "", `found '\u00a0' at byte 2 where a member name in double quotes should be`,
	},
	{
		"gzip", "\x1f\x8b\x08\x00\x00",
		InvalidJSON, 1, "", `the file is compressed with gzip: give it a name that ends in .jsonl.gz`,
	},
	{
		"zstd", "\x28\xb5\x2f\xfd\x00",
		InvalidJSON, 1, "", `the file is compressed with zstd: give it a name that ends in .jsonl.zst`,
	},
	{
		"UTF-16", "\xff\xfe{\x00\"\x00",
		InvalidJSON, 1, "", `the file is in UTF-16: save it as UTF-8`,
	},
	{
		"UTF-16 in the other order", "\xfe\xff\x00{\x00\"",
		InvalidJSON, 1, "", `the file is in UTF-16: save it as UTF-8`,
	},

	// invalid_utf8
	{
		"Latin-1", head + "{\"prompt\":\"caf\xe9 is\"}}",
		InvalidUTF8, 84, "a", `byte 84, 0xe9, is not UTF-8: save the file as UTF-8`,
	},
	{
		"cut off rune", "{\"custom_id\":\"\xe2\x82",
		InvalidUTF8, 15, "", `byte 15, 0xe2, is not UTF-8: save the file as UTF-8`,
	},
	{
		"overlong rune", head + "{\"prompt\":\"\xc0\xaf\"}}",
		InvalidUTF8, 81, "a", `byte 81, 0xc0, is not UTF-8: save the file as UTF-8`,
	},
	{
		"surrogate in UTF-8", head + "{\"prompt\":\"\xed\xa0\x80\"}}",
		InvalidUTF8, 81, "a", `byte 81, 0xed, is not UTF-8: save the file as UTF-8`,
	},
	{
		"above U+10FFFF", head + "{\"prompt\":\"\xf4\x90\x80\x80\"}}",
		InvalidUTF8, 81, "a", `byte 81, 0xf4, is not UTF-8: save the file as UTF-8`,
	},
	{
		"continuation byte alone", head + "{\"prompt\":\"\x80\"}}",
		InvalidUTF8, 81, "a", `byte 81, 0x80, is not UTF-8: save the file as UTF-8`,
	},
	{
		"bad byte outside strings", head + "{\x80}}",
		InvalidUTF8, 71, "a", `byte 71, 0x80, is not UTF-8: save the file as UTF-8`,
	},
	{
		"bad byte in a name", "{\"custom_id\xff\":\"a\"}",
		InvalidUTF8, 12, "", `byte 12, 0xff, is not UTF-8: save the file as UTF-8`,
	},

	// line_too_long, too_deep, bom, not_an_object, trailing_data
	{
		"long line", head + `{"prompt":"` + strings.Repeat("x", 4096) + `"}}`,
		LineTooLong, 0, "", `the line has 4179 bytes, the most is 4096: shorten or split the request`,
	},
	{
		"deep arrays", head + `{"a":` + strings.Repeat("[", 19) + strings.Repeat("]", 19) + `}}`,
		TooDeep, 93, "a", `more than 20 objects and arrays are open at byte 93: nest less`,
	},
	{
		"deep objects", strings.Repeat(`{"a":`, 21) + `1` + strings.Repeat("}", 21),
		TooDeep, 101, "", `more than 20 objects and arrays are open at byte 101: nest less`,
	},
	{
		"byte order mark", "\ufeff" + good,
		BOM, 1, "", `the line starts with a byte order mark: remove it (were files joined?)`,
	},
	{
		"array", ` [1]`,
		NotAnObject, 2, "", `the line is an array: it must be an object, {…}`,
	},
	{
		"string", `"custom_id"`,
		NotAnObject, 1, "", `the line is a string: it must be an object, {…}`,
	},
	{
		"number", `-1.5e3`,
		NotAnObject, 1, "", `the line is a number: it must be an object, {…}`,
	},
	{
		"null", `null`,
		NotAnObject, 1, "", `the line is null: it must be an object, {…}`,
	},
	{
		"boolean", `false`,
		NotAnObject, 1, "", `the line is a boolean: it must be an object, {…}`,
	},
	{
		"two objects", good + " " + good,
		TrailingData, 85, "a", `more data follows the JSON value at byte 85: put each request on a line of its own`,
	},
	{
		"comma between lines", good + `,`,
		TrailingData, 84, "a", `more data follows the JSON value at byte 84: lines are not separated by commas`,
	},
	{
		"brace too many", good + `}`,
		TrailingData, 84, "a", `more data follows the JSON value at byte 84: remove it`,
	},
	{
		"NUL at the end", good + "\x00",
		TrailingData, 84, "a", `more data follows the JSON value at byte 84: remove it`,
	},

	// custom_id
	{
		"no custom_id", `{"method":"POST","url":"/v1/embeddings","body":{}}`,
		MissingCustomID, 0, "", `"custom_id" is missing: add it, a string that occurs once in the file`,
	},
	{
		"nothing", `{}`,
		MissingCustomID, 0, "", `"custom_id" is missing: add it, a string that occurs once in the file`,
	},
	{
		"custom_id is a number", `{"custom_id":17,"method":"POST","url":"/v1/embeddings","body":{}}`,
		InvalidCustomID, 14, "", `"custom_id" at byte 14 must be a string, not a number`,
	},
	{
		"custom_id is null", `{"custom_id":null,"method":"POST","url":"/v1/embeddings","body":{}}`,
		InvalidCustomID, 14, "", `"custom_id" at byte 14 must be a string, not null`,
	},
	{
		"custom_id is empty", `{"custom_id":"","method":"POST","url":"/v1/embeddings","body":{}}`,
		InvalidCustomID, 14, "", `"custom_id" at byte 14 is empty: give each line an id of its own`,
	},
	{
		"custom_id is long", `{"custom_id":"` + strings.Repeat("é", 257) + `","method":"POST"}`,
		InvalidCustomID, 14, "", `"custom_id" at byte 14 has 514 bytes, the most is 512`,
	},
	{
		"custom_id is one byte too long", `{"custom_id":"` + strings.Repeat("é", 256) + `x","method":"POST"}`,
		InvalidCustomID, 14, "", `"custom_id" at byte 14 has 513 bytes, the most is 512`,
	},
	{
		"custom_id has half a pair", `{"custom_id":"a\ud800b","method":"POST","url":"/v1/embeddings","body":{}}`,
		InvalidCustomID, 14, "", `"custom_id" at byte 14 has half of a surrogate pair (\ud800 to \udfff): it is not Unicode`,
	},
	{
		"custom_id has the second half", `{"custom_id":"\udc00","method":"POST","url":"/v1/embeddings","body":{}}`,
		InvalidCustomID, 14, "", `"custom_id" at byte 14 has half of a surrogate pair (\ud800 to \udfff): it is not Unicode`,
	},
	{
		"custom_id has halves in the wrong order", `{"custom_id":"\udc00\ud800","method":"POST","url":"/v1/embeddings","body":{}}`,
		InvalidCustomID, 14, "", `"custom_id" at byte 14 has half of a surrogate pair (\ud800 to \udfff): it is not Unicode`,
	},
	{
		"custom_id has a half before an escape", `{"custom_id":"\ud800\n12345","method":"POST","url":"/v1/embeddings","body":{}}`,
		InvalidCustomID, 14, "", `"custom_id" at byte 14 has half of a surrogate pair (\ud800 to \udfff): it is not Unicode`,
	},

	// method, url, body
	{
		"no method", `{"custom_id":"a","url":"/v1/embeddings","body":{}}`,
		MissingMethod, 0, "a", `"method" is missing: add "method":"POST"`,
	},
	{
		"GET", `{"custom_id":"a","method":"GET","url":"/v1/embeddings","body":{}}`,
		InvalidMethod, 27, "a", `"method" at byte 27 is "GET": it must be "POST"`,
	},
	{
		"lower-case method", `{"custom_id":"a","method":"post","url":"/v1/embeddings","body":{}}`,
		InvalidMethod, 27, "a", `"method" at byte 27 is "post": it must be "POST"`,
	},
	{
		"method is an array", `{"custom_id":"a","method":["POST"],"url":"/v1/embeddings","body":{}}`,
		InvalidMethod, 27, "a", `"method" at byte 27 must be a string, not an array`,
	},
	{
		"no url", `{"custom_id":"a","method":"POST","body":{}}`,
		MissingURL, 0, "a", `"url" is missing: add it, for instance "url":"/v1/chat/completions"`,
	},
	{
		"unknown url", `{"custom_id":"a","method":"POST","url":"/v1/images","body":{}}`,
		UnsupportedURL, 40, "a", `"url" at byte 40 is "/v1/images": it must be one of /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, /v1/score, /score, /v1/rerank, /v2/rerank, /rerank, /classify, /pooling`,
	},
	{
		"url with a slash too many", `{"custom_id":"a","method":"POST","url":"/v1/embeddings/","body":{}}`,
		UnsupportedURL, 40, "a", `"url" at byte 40 is "/v1/embeddings/": it must be one of /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, /v1/score, /score, /v1/rerank, /v2/rerank, /rerank, /classify, /pooling`,
	},
	{
		"url is true", `{"custom_id":"a","method":"POST","url":true,"body":{}}`,
		UnsupportedURL, 40, "a", `"url" at byte 40 must be a string, not a boolean`,
	},
	{
		"no body", `{"custom_id":"a","method":"POST","url":"/v1/embeddings"}`,
		MissingBody, 0, "a", `"body" is missing: add it, the object that is to be sent to the engine`,
	},
	{
		"body is null", head + `null}`,
		InvalidBody, 70, "a", `"body" at byte 70 must be an object, not null`,
	},
	{
		"body is a string", head + `"{}"}`,
		InvalidBody, 70, "a", `"body" at byte 70 must be an object, not a string`,
	},
	{
		"body is an array", head + `[{}]}`,
		InvalidBody, 70, "a", `"body" at byte 70 must be an object, not an array`,
	},
	{
		"model is a number", head + `{"model":4}}`,
		InvalidBody, 79, "a", `"model" at byte 79 must be a string, not a number`,
	},
	{
		"model has half a pair", head + `{"model":"\udfff"}}`,
		InvalidBody, 79, "a", `"model" at byte 79 has half of a surrogate pair (\ud800 to \udfff): it is not Unicode`,
	},
	{
		"model is long", head + `{"model":"` + strings.Repeat("m", 513) + `"}}`,
		InvalidBody, 79, "a", `"model" at byte 79 has 513 bytes, the most is 512`,
	},

	// duplicate_member, unknown_member
	{
		"custom_id twice", `{"custom_id":"a","custom_id":"a","method":"POST","url":"/v1/embeddings","body":{}}`,
		DuplicateMember, 18, "", `"custom_id" occurs again at byte 18: keep one`,
	},
	{
		"custom_id twice, once escaped", `{"custom_id":"a","custom\u005fid":"b","method":"POST","url":"/v1/embeddings","body":{}}`,
		DuplicateMember, 18, "", `"custom_id" occurs again at byte 18: keep one`,
	},
	{
		"body twice", head + `{},"body":{}}`,
		DuplicateMember, 73, "a", `"body" occurs again at byte 73: keep one`,
	},
	{
		"model twice", head + `{"model":"a","model":"b"}}`,
		DuplicateMember, 83, "a", `"model" occurs again at byte 83: keep one`,
	},
	{
		"stream twice", head + `{"stream":false,"stream":false}}`,
		DuplicateMember, 86, "a", `"stream" occurs again at byte 86: keep one`,
	},
	{
		"other case", `{"Custom_ID":"a","method":"POST","url":"/v1/embeddings","body":{}}`,
		UnknownMember, 2, "", `"Custom_ID" at byte 2 must be written "custom_id"`,
	},
	{
		"other case beside the right one", `{"custom_id":"a","URL":"/x","method":"POST","url":"/v1/embeddings","body":{}}`,
		UnknownMember, 18, "a", `"URL" at byte 18 must be written "url"`,
	},
	{
		"other member", `{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{},"metadata":{"a":[1]}}`,
		UnknownMember, 67, "a", `"metadata" at byte 67 is not a member of a request (custom_id, method, url, body): remove it, or move it into the body`,
	},
	{
		"name with half a pair", `{"custom_id\ud800":"a","method":"POST","url":"/v1/embeddings","body":{}}`,
		UnknownMember, 2, "", `"custom_id\\ud800" at byte 2 is not a member of a request (custom_id, method, url, body): remove it, or move it into the body`,
	},

	// stream_not_supported, limit_exceeded
	{
		"stream", head + `{"model":"m","stream":true}}`,
		StreamNotSupported, 92, "a", `"stream" at byte 92 must be false or absent: a batch returns whole answers`,
	},
	{
		"stream with an escaped name", head + `{"str\u0065am":true}}`,
		StreamNotSupported, 85, "a", `"stream" at byte 85 must be false or absent: a batch returns whole answers`,
	},
	{
		"stream that Python takes for true", head + `{"stream":"yes"}}`,
		StreamNotSupported, 80, "a", `"stream" at byte 80 must be false or absent: a batch returns whole answers`,
	},
	{
		"stream is 1", head + `{"stream":1}}`,
		StreamNotSupported, 80, "a", `"stream" at byte 80 must be false or absent: a batch returns whole answers`,
	},
	{
		"n", head + `{"n":5}}`,
		LimitExceeded, 75, "a", `"n" at byte 75 is 5, the most is 4`,
	},
	{
		"n as a float", head + `{"n":4.5}}`,
		LimitExceeded, 75, "a", `"n" at byte 75 is 4.5, the most is 4`,
	},
	{
		"n with an exponent", head + `{"n":1E1}}`,
		LimitExceeded, 75, "a", `"n" at byte 75 is 1E1, the most is 4`,
	},
	{
		"n as a string", head + `{"n":"5"}}`,
		InvalidBody, 75, "a", `"n" at byte 75 must be a number, not a string`,
	},
	{
		"n twice", head + `{"n":1,"n":9}}`,
		DuplicateMember, 77, "a", `"n" occurs again at byte 77: keep one`,
	},
	{
		"max_tokens", head + `{"max_tokens":1001}}`,
		LimitExceeded, 84, "a", `"max_tokens" at byte 84 is 1001, the most is 1000`,
	},
	{
		"max_completion_tokens", head + `{"max_completion_tokens":1e400}}`,
		LimitExceeded, 95, "a", `"max_completion_tokens" at byte 95 is 1e400, the most is 1000`,
	},
	{
		"max_output_tokens", head + `{"max_output_tokens":99999999999999999999999999999999999999999999999}}`,
		LimitExceeded, 91, "a", `"max_output_tokens" at byte 91 is 9999999999999999999999999999999999999999, the most is 1000`,
	},

	// the first problem counts, a breach of the grammar before others
	{
		"two problems", `{"custom_id":"a","method":"GET","url":"/x","body":{}}`,
		InvalidMethod, 27, "a", `"method" at byte 27 is "GET": it must be "POST"`,
	},
	{
		"grammar after another problem", `{"custom_id":"a","method":"GET","url":"/v1/embeddings","body":{},}`,
		InvalidJSON, 66, "a", `found '}' at byte 66 where a member name in double quotes should be: is there a comma too many before it?`,
	},
}
