// Package jsonl reads the input file of a batch: OpenAI's JSON Lines, one request a line, checked
// strictly and at a speed at which checking costs less than fetching.
//
//	{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[…]}}
//
// The parts are used one after the other, each by one goroutine: [Decompress] opens a file,
// [Reader] cuts it into lines, [Checker] checks each line and finds its members, and [Dups]
// finds custom_ids that occur twice.
//
// # Why a scanner of our own
//
// A line that is let through costs GPU time and may stop an engine, so the check must be strict;
// files are gigabytes, so it must be fast. No library is both: encoding/json replaces bad UTF-8,
// takes Custom_ID for custom_id and the last of two members, at 0.2 GB/s; the SIMD and unchecked
// ones accept bad UTF-8 or control bytes; jsontext is strict and half as fast as this. The scanner
// is one pass of recursive descent with 8-byte steps inside strings, no unsafe, no allocation for
// a good line. Fuzz tests hold it against encoding/json, unicode/utf8 and jsontext.
//
// # What a line may be
//
// RFC 8259 and nothing else: UTF-8 everywhere, nesting of at most 1,000 levels, at most 16 MiB.
// The body is handed on byte for byte. These rules are spool's:
//
//   - The envelope has exactly the members custom_id, method, url and body. Twice the same is
//     refused. So is any other: OpenAI documents these four only, LiteLLM refuses others, vLLM
//     ignores them, and a user who writes "metadata" or "Custom_ID" wants something that would not
//     happen. It is better to hear so before the GPU runs than to find it missing after.
//   - Names are compared after escapes are decoded: "custom\u005fid" is custom_id.
//   - custom_id has 1 to 512 bytes when decoded. It, method, url and model must be Unicode, so half
//     of a surrogate pair (\ud800 alone) is refused there. In the rest of the body it is passed on:
//     engines take it, and nothing here depends on it.
//   - In the body, spool reads model and stream, and members that are capped. These must not occur
//     twice: Python's json takes the last, other parsers the first or neither, and what is checked
//     here must be what the engine reads. Other members are not looked at.
//   - model is a string of at most 512 bytes, null, or absent; null and "" mean that the engine
//     chooses, as in vLLM.
//   - stream is false, null, or absent. Not only true is refused: pydantic, behind vLLM, takes 1,
//     "true", "yes" and "on" for true as well.
//   - All lines of a file have the same url: that of the first line that is good.
//
// # What a file may be
//
// Lines end with LF or CRLF; the last may end with neither. Lines of spaces, tabs and CRs are blank:
// they count in line numbers, from 1, and are not requests. A UTF-8 byte order mark at the start
// of the file is skipped, one at the start of another line (files joined with cat) is refused.
// gzip may have several members, zstd several frames.
//
// # Problem codes
//
// A line has at most one problem: a breach of the JSON grammar if there is one, else the first of
// the others, else the first missing member. Codes are stable, messages are for people.
//
//	code                   what is wrong
//	invalid_json           not JSON by RFC 8259
//	invalid_utf8           a string with bytes that are not UTF-8
//	line_too_long          more bytes than Config.MaxLineBytes
//	too_deep               more nested objects and arrays than Config.MaxDepth
//	bom                    a byte order mark at the start of a line that is not the first
//	not_an_object          JSON, but not an object
//	trailing_data          something follows the object
//	missing_custom_id      no member custom_id
//	invalid_custom_id      not a string, empty, over 512 bytes, or not Unicode
//	duplicate_custom_id    an earlier line has the same custom_id (found by Dups)
//	missing_method         no member method
//	invalid_method         not "POST"
//	missing_url            no member url
//	unsupported_url        not one of Config.Endpoints
//	mixed_endpoints        not the url of the first good line
//	missing_body           no member body
//	invalid_body           not an object, or a member that spool reads has a wrong type
//	duplicate_member       a member of the envelope, or one of the body that spool reads, twice
//	unknown_member         a member of the envelope that is not one of the four
//	stream_not_supported   body.stream is anything but false or null
//	limit_exceeded         a member of the body is above its cap (Config.MaxN, Config.MaxTokens)
//
// Of the file, as errors of Decompress and Reader.Next:
//
//	unsupported_suffix     the name ends in none of .jsonl, .jsonl.gz, .jsonl.zst
//	corrupt_input          the file cannot be decompressed to its end
//	input_too_large        more decompressed bytes than Config.MaxInputBytes
package jsonl
