package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spool/storage/batch"
)

const testID = "bpicclhpxbn2qqhb5uxmxo6zjly"

// completed is a run of n lines by some runners that recorded all there is to record.
func completed(n int64, runners int) *batch.Summary {
	s := &batch.Summary{
		V: 1, Batch: testID, Outcome: batch.Completed,
		Input:    batch.Input{Bucket: "my-bucket", Key: "in/evals/prompts.jsonl", ETag: "9b2c", Size: 720187, LastModified: 1763900000, SHA256: "5fec"},
		Endpoint: "/v1/chat/completions", Models: []string{"Qwen/Qwen3-8B"}, Pool: "default", Window: "24h", OnInvalid: "fail",
		Metadata: map[string]string{"team": "evals"},
		Lines:    batch.SummaryLines{Total: n, OK: n}, Bytes: batch.SummaryBytes{Input: 720187, Output: 5 * 720187},
		Shards: int(n/8000) + 1, Chunks: int(n/1000) + 1,
		Times:   batch.SummaryTimes{Uploaded: 1763900000, Created: 1763900002, InProgress: 1763900040, Finalized: 1763900640, Expires: 1763986400},
		Seconds: batch.SummarySeconds{Queued: 38, Running: 600, Total: 640},
		Usage:   batch.Usage{InputTokens: 90 * n, OutputTokens: 250 * n, TotalTokens: 340 * n, InputTokensDetails: batch.InputDetails{CachedTokens: 45 * n}},
		Rates:   &batch.SummaryRates{Lines: float64(n) / 600, InputTokens: 90 * float64(n) / 600, OutputTokens: 250 * float64(n) / 600},
		Errors:  []batch.ErrorClass{}, FileErrors: []batch.BatchError{}, Finalizer: "r-00", TraceID: "0af7651916cd43dd8448eb211c80319c",
	}
	var took []batch.Latencies
	for i := range runners {
		r := runner(i, n/int64(runners))
		s.Runners = append(s.Runners, r)
		took = append(took, r.Latencies)
	}
	s.Latency = batch.MergeLatencies(took...).Summary()
	return s
}

func runner(i int, n int64) batch.Runner {
	start := int64(1763900040 + i%50)
	r := batch.Runner{
		V: 1, Batch: testID, Runner: fmt.Sprintf("r-host-%02d", i), Host: fmt.Sprintf("gpu-%d", i), Version: "1.2.3", StartedAt: start, UpdatedAt: start + 550,
		EndedAt: start + 550, Shards: 2, Chunks: 16, OK: n, Requests: n + 7, Retries: 7,
		Phases: []batch.Phase{{Name: "engine", Seconds: 80}, {Name: "generate", Seconds: 455}, {Name: "store", Seconds: 15}},
		Engine: json.RawMessage(`[{"url":"unix:///run/0.sock","version":"0.32.0","models":["Qwen/Qwen3-8B"],"record":{"version":"0.32.0",` +
			`"model":"Qwen/Qwen3-8B","revision":"abc123","models":{"Qwen/Qwen3-8B":40960},"args":["serve","--max-num-seqs","256"],` +
			`"driver":"570.1","gpus":["H100","H100"],"load_seconds":` + fmt.Sprint(70+i) + `}}]`),
		GPUs: json.RawMessage(`[{"index":0,"name":"H100","observed_seconds":550,"busy_seconds":440,"memory_used_max_bytes":70000000000,` +
			`"memory_total_bytes":80000000000,"temperature_max_celsius":71,"energy_joules":275000},` +
			`{"index":1,"name":"H100","observed_seconds":550,"xids":{"31":2}}]`),
		Series: &batch.Series{SlotSeconds: 5, Lines: make([]int64, 110), OutputTokens: make([]int64, 110)}, HourPrice: 3.6, Currency: "USD",
	}
	r.Series.Chunks, r.Series.Retries = make([]int64, 110), make([]int64, 110)
	r.Series.Chunks[30], r.Series.Chunks[105], r.Series.Retries[50] = 4, 12, 7
	r.GPUSeries = &batch.GPUSeries{SlotSeconds: 5}
	for slot := range 110 {
		r.GPUSeries.Samples = append(r.GPUSeries.Samples, 5)
		busy := 0.94
		if slot < 16 {
			busy = 0
		}
		r.GPUSeries.Utilization = append(r.GPUSeries.Utilization, busy)
		r.GPUSeries.MemoryUsed = append(r.GPUSeries.MemoryUsed, 7e10)
		r.GPUSeries.Temperature = append(r.GPUSeries.Temperature, 45+float64(slot%27))
		r.GPUSeries.Power = append(r.GPUSeries.Power, 200+1000*busy)
	}
	for c := range batch.MaxSlow {
		r.Slowest = batch.AddSlow(r.Slowest, batch.SlowChunk{Chunk: 16*i + c, Lines: 1000, Failed: int64(c % 2), Seconds: 100 + float64(c) + 0.01*float64(i)})
	}
	r.Finish = map[string]int64{"stop": n - n/10, "length": n / 10}
	r.Times = &batch.EngineTimes{
		Queue: batch.Latencies{{0, n / 2}, {200, n / 2}}, FirstToken: batch.Latencies{{250, n}}, Decode: batch.Latencies{{300, n}}, InterToken: batch.Latencies{{220, n}},
	}
	for slot := 16; slot < 107; slot++ {
		r.Series.Lines[slot] = n/91 + int64(slot%7)*n/2000
		r.Series.OutputTokens[slot] = 250 * r.Series.Lines[slot]
	}
	for b := range 80 {
		r.Latencies = append(r.Latencies, [2]int64{int64(250 + b), 1 + n*int64(b*(80-b))/85000})
	}
	return r
}

// outcomes are summaries of every terminal state, and the verdict on each.
func outcomes() map[string]*batch.Summary {
	all := map[string]*batch.Summary{"Completed": completed(1319, 2)}
	some := completed(1000, 2)
	some.Lines = batch.SummaryLines{Total: 1000, OK: 988, Failed: 10, Invalid: 2}
	some.Errors = []batch.ErrorClass{
		{Status: 400, Count: 9, Lines: []int64{3, 17, 40}, Example: `{"error":{"message":"max_tokens must be at least 1"}}`},
		{Code: batch.CodeInvalidRequest, Count: 2, Lines: []int64{5, 6}, Example: "invalid_json: the line ends too early"},
		{Code: batch.CodeRequestTimeout, Count: 1, Lines: []int64{99}, Example: "no answer after 5 attempts"},
	}
	some.OnInvalid = "skip"
	all["Completed, some lines failed"] = some
	for word, outcome := range map[string]string{"Cancelled": batch.Cancelled, "Expired": batch.Expired, "Failed": batch.Failed} {
		s := completed(1000, 1)
		s.Outcome, s.Times.Stopped = outcome, 1763900600
		s.Lines = batch.SummaryLines{Total: 1000, OK: 400, Missing: 600}
		s.Code, s.Message = "batch_"+outcome, "stopped"
		if outcome == batch.Failed {
			s.Code, s.Message = batch.CodeModelNotFound, "an engine lacks m"
		}
		s.Errors = []batch.ErrorClass{{Code: s.Code, Count: 600, Lines: []int64{401, 402, 403}, Example: s.Message}}
		all[word] = s
	}
	line := int64(2)
	r := completed(5, 1)
	r.Runners, r.Rates, r.Latency, r.Usage, r.Outcome, r.Chunks, r.Shards = nil, nil, nil, batch.Usage{}, batch.Failed, 0, 0
	r.Lines, r.Times.InProgress = batch.SummaryLines{Total: 5, Invalid: 3}, 0
	r.FileErrors = []batch.BatchError{{Code: "invalid_json", Message: "found 'n' at byte 1", Line: &line}}
	all["Rejected"] = r
	return all
}

// elements parses a page as XML, which it is, too: so every element is closed, in order, and every attribute quoted.
func elements(t *testing.T, page []byte) (names map[string]int, text string) {
	t.Helper()
	names = map[string]int{}
	var all strings.Builder
	dec := xml.NewDecoder(bytes.NewReader(page))
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			return names, all.String()
		}
		if err != nil {
			t.Fatalf("not well formed: %v", err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			names[tok.Name.Local]++
			for _, a := range tok.Attr {
				if strings.HasPrefix(strings.ToLower(a.Name.Local), "on") || a.Name.Local == "src" {
					t.Errorf("<%s %s=%q>", tok.Name.Local, a.Name.Local, a.Value)
				}
			}
		case xml.CharData:
			all.Write(tok)
			all.WriteByte(' ')
		}
	}
}

// sane checks what holds for any report.
func sane(t *testing.T, html, markdown []byte) (text string) {
	t.Helper()
	names, text := elements(t, html)
	for _, n := range []string{"script", "img", "iframe", "object", "embed", "link", "b:script", "form", "base"} {
		if names[n] > 0 {
			t.Errorf("the page has %d <%s>", names[n], n)
		}
	}
	if n := names["section"]; n != 11 && n != 7 || n == 7 && !strings.Contains(text, "Nothing was run, and no GPU was used.") || names["h1"] != 1 || names["title"] == 0 {
		t.Errorf("the page has %d sections and %d h1", names["section"], names["h1"])
	}
	for _, u := range regexp.MustCompile(`(?:href|src|action|xmlns|url)\s*[=(]\s*["']?([^"')\s>]*)`).FindAllSubmatch(html, -1) {
		if target := string(u[1]); !strings.HasPrefix(target, "#") && !slices.Contains([]string{"output.jsonl", "errors.jsonl", "invalid.jsonl", "summary.json", "batch.json"}, target) {
			t.Errorf("the page refers to %q", target)
		}
	}
	if bytes.Contains(html, []byte("@import")) || bytes.Contains(html, []byte("NaN")) || bytes.Contains(html, []byte("%!")) || bytes.Contains(html, []byte("ZgotmplZ")) {
		t.Error("the page has @import, NaN, a bad format, or a text where the template cannot have one")
	}
	if len(html) > MaxHTML || len(markdown) > MaxMarkdown {
		t.Errorf("%d bytes of HTML and %d of Markdown", len(html), len(markdown))
	}
	return text
}

func TestEveryOutcomeHasItsVerdict(t *testing.T) {
	for word, s := range outcomes() {
		t.Run(word, func(t *testing.T) {
			html, markdown := Render(s)
			sane(t, html, markdown)
			if v := judge(s); v.Word != word || v.Text == "" || v.Why == "" {
				t.Errorf("verdict %+v", v)
			}
			if want := "<title>" + word + ": in/evals/prompts.jsonl</title>"; !bytes.Contains(html, []byte(want)) {
				t.Errorf("the page has no %s", want)
			}
			if head := strings.SplitN(string(markdown), "\n", 2)[0]; !strings.HasSuffix(head, " "+word) {
				t.Errorf("Markdown begins with %q", head)
			}
		})
	}
}

// has looks for texts in a page without regard to its white space.
func has(t *testing.T, text string, wants ...string) {
	t.Helper()
	words := strings.Join(strings.Fields(text), " ")
	for _, w := range wants {
		if !strings.Contains(words, w) {
			t.Errorf("no %q in %.6000s", w, words)
		}
	}
}

func TestPageHasTheValuesOfTheSummary(t *testing.T) {
	s := completed(1319, 2)
	html, markdown := Render(s)
	has(t, sane(t, html, markdown),
		"All 1,319 lines have an answer.", "spool wait exits 0",
		"1,319 = 1,319 + 0 + 0 + 0: every line is in exactly one place.",
		"s3://my-bucket/in/evals/prompts.jsonl", "SHA-256 5fec", "1 shard, 2 chunks, 2 runners", "spool 1.2.3", "team evals",
		"Revision abc123", "Arguments serve --max-num-seqs 256", "Models served Qwen/Qwen3-8B (40960)", "2 runners",
		"Ended by r-00 Trace 0af7651916cd43dd8448eb211c80319c",
		"running 10 min (93.8 %) waiting in the queue 38 s (5.9 %) being checked and planned 2 s (0.3 %) the batch 10 min 40 s",
		"Uploaded 2025-11-23 12:13:20 UTC", "First work 2025-11-23 12:14:00 UTC, 38 s later",
		"generating 15 min 10 s (82.7 %)", "waiting for the engine 2 min 40 s (14.5 %)",
		"GPUs watched 4", "Mean utilisation 80 %", "Idle 3 min 40 s of 18 min 20 s", "0.153 kWh, 1,668 J per 1,000 output tokens",
		"70 GB of 80 GB 71 °C", "XID 31 × 2",
		"Input from the cache 59,355 (50 %)", "A line, on average 90 in, 250 out",
		"Runner time 18 min 20 s", "GPU time 36 min 40 s", "Price 1.10 USD", "1,000 answered lines 0.834 USD",
		"output.jsonl has 3.6 MB.", "1,332 requests, of them 14 tried again by the same runner.", "Logs: s3://my-bucket/logs/evals/prompts.jsonl/"+testID+"/",
		"Slowest chunks", "25 1 min 49 s 1,000 1 9.17 r-host-01 9 1 min 49 s 1,000 1 9.17 r-host-00",
		"queued in the engine 0 s", "to the first token", "between two tokens", "stop 1,188 (90.1 %)", "length 130 (9.9 %), cut off by max_tokens or the model's length",
		"Utilisation over time, mean of the GPUs 94 %", "Memory over time, mean of the GPUs 70 GB", "Temperature over time, of the hottest 71 °C",
		"Power over time, of all GPUs together 2,280 W", "Chunks stored over time", "Requests tried again over time, by the same runner",
		"There are none.", "spool results s3://my-bucket/in/evals/prompts.jsonl -o results/")
	has(t, string(markdown), "| lines | 1,319: 1,319 answered, 0 failed, 0 not run to the end, 0 bad |", "10 min 40 s after the upload",
		"2.2 lines/s, 550 output tokens/s", "| price | 1.10 USD |",
		"| answers ended by | stop 1,188 (90.1 %); length 130 (9.9 %)", "| to the first token | p50 ")
}

func TestErrorsHaveExamplesAndAdvice(t *testing.T) {
	s := outcomes()["Completed, some lines failed"]
	html, markdown := Render(s)
	has(t, sane(t, html, markdown), "988 of 1,000 lines have an answer; 12 are without an answer (1.2 %): 10 failed, 2 bad.",
		"lines without an answer 12 ", "failed 10 1 % errors.jsonl", "bad 2 0.2 % invalid.jsonl and errors.jsonl", "spool wait exits 3",
		"The engine refuses these requests as they are;", "Bad lines that were skipped; invalid.jsonl has each with its reason.",
		"HTTP 400 9 lines, 75 % of all without an answer", `{"error":{"message":"max_tokens must be at least 1"}}`,
		testID+"-3, "+testID+"-17, "+testID+"-40", "request_timeout 1 line, 8.3 % of all without an answer", "spool retry s3://my-bucket/in/evals/prompts.jsonl --wait",
		"The runners' records count 1,000 lines, the result 998")
	has(t, string(markdown), "| ` HTTP 400 ` | 9 lines |", "spool retry s3://my-bucket/in/evals/prompts.jsonl --wait")
}

// Bad lines are not run, and do not fail.
func TestFailedAreOnlyLinesThatWereRun(t *testing.T) {
	s := outcomes()["Completed, some lines failed"]
	s.Lines = batch.SummaryLines{Total: 5, OK: 2, Invalid: 3}
	s.Errors = []batch.ErrorClass{{Code: batch.CodeInvalidRequest, Count: 3, Lines: []int64{1, 2, 3}, Example: "invalid_json: the line ends too early"}}
	html, markdown := Render(s)
	const want = "2 of 5 lines have an answer; 3 are without an answer (60 %): 3 bad."
	text := sane(t, html, markdown)
	has(t, text, "Completed, some lines are bad", want, "lines answered 2 lines without an answer 3 ", "failed 0 0 % errors.jsonl", "invalid_request 3 lines, 100 % of all without an answer")
	has(t, string(markdown), "Completed, some lines are bad", want, "| lines | 5: 2 answered, 0 failed, 0 not run to the end, 3 bad |")
	if found := regexp.MustCompile(`3 failed|lines failed|that failed|failed lines`).FindString(text + string(markdown)); found != "" {
		t.Errorf("bad lines are said to have failed: %q", found)
	}
}

// Runners count among their errors the lines that a stop ended.
func TestTablesOfRunnersDoNotSayFailed(t *testing.T) {
	html, markdown := Render(completed(1319, 1))
	has(t, sane(t, html, markdown), "runner held it answered without an answer requests", "chunk took lines without an answer lines/s")
}

func TestVerdictsCountWhatHasNoAnswer(t *testing.T) {
	for want, lines := range map[string]batch.SummaryLines{
		"All 2 lines have an answer.":                                                                          {Total: 2, OK: 2},
		"The only line has an answer.":                                                                         {Total: 1, OK: 1},
		"1 of 2 lines has an answer; 1 is without an answer (50 %): 1 failed.":                                 {Total: 2, OK: 1, Failed: 1},
		"0 of 1 line has an answer; 1 is without an answer (100 %): 1 bad.":                                    {Total: 1, Invalid: 1},
		"1 of 9 lines has an answer; 8 are without an answer (88.9 %): 3 failed, 4 not run to the end, 1 bad.": {Total: 9, OK: 1, Failed: 3, Missing: 4, Invalid: 1},
	} {
		if v := judge(&batch.Summary{Outcome: batch.Completed, Lines: lines, Chunks: 1}); v.Text != want {
			t.Errorf("%q, want %q", v.Text, want)
		}
	}
	for want, missing := range map[string]int64{
		"1 of 2 lines has an answer; 1 was not run to its end.":    1,
		"1 of 3 lines has an answer; 2 were not run to their end.": 2,
	} {
		for _, outcome := range []string{batch.Cancelled, batch.Expired} {
			if v := judge(&batch.Summary{Outcome: outcome, Lines: batch.SummaryLines{Total: 1 + missing, OK: 1, Missing: missing}, Chunks: 1}); v.Text != want {
				t.Errorf("%s: %q, want %q", outcome, v.Text, want)
			}
		}
	}
}

func TestStepsSayWhatIsRunAgain(t *testing.T) {
	for word, want := range map[string]string{
		"Completed, some lines failed": "Run the failed lines again, as a new input:",
		"Cancelled":                    "Run what failed or was not run to the end, as a new input:",
		"Expired":                      "Give it a longer window (at most 720h), or more runners, then run what failed or was not run to the end:",
		"Failed":                       "Run what failed or was not run to the end, as a new input:",
	} {
		has(t, string(Markdown(outcomes()[word])), "- "+want)
	}
}

// A runner that is told to stop ends its open lines with the code of the stop: they did not fail.
func TestLinesThatAStopCutOffDidNotFail(t *testing.T) {
	s := outcomes()["Cancelled"]
	s.Lines = batch.SummaryLines{Total: 1000, OK: 400, Failed: 350, Missing: 250}
	s.Errors = []batch.ErrorClass{{Code: s.Code, Count: 590, Lines: []int64{401}}, {Status: 400, Count: 10, Lines: []int64{3}}}
	html, markdown := Render(s)
	has(t, sane(t, html, markdown), "400 of 1,000 lines have an answer; 590 were not run to their end.",
		"1,000 = 400 + 10 + 590 + 0: every line is in exactly one place.", "failed 10 1 % errors.jsonl", "lines a second 0.683")
	has(t, string(markdown), "| lines | 1,000: 400 answered, 10 failed, 590 not run to the end, 0 bad |", "0.683 lines/s")
}

func TestRejectedFileSaysWhatIsWrongAndThatNothingRan(t *testing.T) {
	html, markdown := Render(outcomes()["Rejected"])
	text := sane(t, html, markdown)
	has(t, text, "3 of 5 lines are bad. No line was run, and no GPU was used.", "2 invalid_json found 'n' at byte 1",
		"No runner worked on it.", "No engine was asked.", "Nothing was run, and no GPU was used.", "--on-invalid skip", "invalid.jsonl")
	if strings.Contains(string(html), `href="output.jsonl"`) {
		t.Error("the page refers to an output that is not there")
	}
	has(t, string(markdown), "| 2 | ` invalid_json ` | ` found 'n' at byte 1 ` |", "| lines | 5: 3 bad, 2 good, but not run |")
}

// What no runner wrote down is said to be unknown. Zero would be a lie.
func TestWhatWasNotRecordedIsNotZero(t *testing.T) {
	s := completed(1319, 2)
	s.Latency, s.Usage = nil, batch.Usage{}
	for i := range s.Runners {
		r := &s.Runners[i]
		r.Phases, r.Series, r.Latencies, r.GPUs, r.Engine, r.HourPrice = nil, nil, nil, nil, nil, 0
		r.GPUSeries, r.Times, r.Slowest, r.Finish = nil, nil, nil, nil
	}
	html, markdown := Render(s)
	has(t, sane(t, html, markdown), "The engine was not recorded.", "The runners' phases were not recorded.", "Throughput over time was not recorded.",
		"Latencies were not recorded.", "GPUs were not recorded.", "Why answers ended was not recorded.", "The engine counted no tokens.", "GPU time not recorded",
		"Price not recorded; no runner was told what its hour costs")
	has(t, string(markdown), "| latency | not recorded |", "| tokens | not recorded |", "| GPU time | not recorded |")
	s.Runners = nil
	html, markdown = Render(s)
	has(t, sane(t, html, markdown), "No runner left a record.", "Runner time was not recorded.")
}

// Latencies are of answers: of none there are none, whatever was recorded.
func TestWithoutAnswerThereIsNoLatency(t *testing.T) {
	s := completed(1319, 2)
	s.Lines, s.Latency = batch.SummaryLines{Total: 1319, Failed: 1319}, nil
	for i := range s.Runners {
		s.Runners[i].Latencies = nil
	}
	html, markdown := Render(s)
	if text := sane(t, html, markdown) + string(markdown); !strings.Contains(text, "No line was answered.") || strings.Contains(text, "Latencies were not recorded") ||
		strings.Contains(text, "| latency |") {
		t.Errorf("latencies that nobody could record are missed in %s", text)
	}
}

func TestRunnersWithOtherEnginesAreTold(t *testing.T) {
	s := completed(1319, 3)
	s.Runners[1].Engine = json.RawMessage(`[{"version":"0.31.0"}]`)
	html, markdown := Render(s)
	has(t, sane(t, html, markdown), "The runners had 2 kinds of engines", "Engine version 0.31.0")
	if got := engines(s.Runners); len(got) != 2 || got[0].Runners != 2 || got[1].Runners != 1 {
		t.Errorf("kinds of engines: %+v", got)
	}
}

func TestMixedEnvironmentsAreAWarningWithFieldsValuesAndRunners(t *testing.T) {
	s := completed(1319, 3)
	s.Mixed = []batch.Difference{
		{Field: "revision", Values: []batch.Variant{
			{Value: "abc123", Count: 5, Runners: []string{"r-1", "r-2", "r-3", "r-4"}}, {Value: "", Count: 1, Runners: []string{"r-5"}},
		}},
		{Field: "args", Values: []batch.Variant{{Value: "serve m --seed 1", Count: 1, Runners: []string{"r-1"}}, {Value: "serve m --seed 2", Count: 1, Runners: []string{"r-5"}}}},
	}
	html, markdown := Render(s)
	has(t, sane(t, html, markdown), "so that the same request may have another answer: Revision, Arguments",
		"The runners' engines differed: Revision, Arguments. The same request may have had another answer",
		"Revision abc123 r-1, r-2, r-3, and 2 more none r-5 Arguments serve m --seed 1 r-1 serve m --seed 2 r-5")
	has(t, string(markdown), "> [!WARNING] > The runners' engines differed, so that the same request may have another answer: Revision, Arguments",
		"| Revision | ` abc123 ` | ` r-1, r-2, r-3, and 2 more ` | | | ` none ` | ` r-5 ` | | Arguments | ` serve m --seed 1 ` | ` r-1 ` |")
	s.Mixed = nil
	html, markdown = Render(s)
	if strings.Contains(string(html)+string(markdown), "differed") {
		t.Error("equal engines are said to differ")
	}
}

func TestMillionLinesAndAThousandRunnersFit(t *testing.T) {
	s := completed(1_000_000, 1000)
	for i := range 51 {
		s.Errors = append(s.Errors, batch.ErrorClass{Code: fmt.Sprint("code-", i), Count: 10, Lines: []int64{1, 2, 3}, Example: strings.Repeat("<'\"&", 75)})
		s.Runners[i].Engine = json.RawMessage(fmt.Sprintf(`[{"version":%q}]`, strings.Repeat("<", 5000+i)))
	}
	for i := range 100 {
		s.FileErrors = append(s.FileErrors, batch.BatchError{Code: "invalid_json", Message: strings.Repeat("<\u202e", 10_000)})
		s.Metadata[fmt.Sprint("key-", i)] = strings.Repeat("<", 2000)
		s.Models = append(s.Models, strings.Repeat("<", 2000))
	}
	s.Input.Key = "in/" + strings.Repeat("<", 1021)
	for range 11 {
		d := batch.Difference{Field: strings.Repeat("<", 100)}
		for range batch.MaxVariants {
			d.Values = append(d.Values, batch.Variant{Value: strings.Repeat("<", batch.MaxVariantValue), Count: 1000, Runners: slices.Repeat([]string{strings.Repeat("<", 100)}, 50)})
		}
		s.Mixed = append(s.Mixed, d)
	}
	for i := range s.Runners {
		s.Runners[i].Runner = strings.Repeat("<", 200) + fmt.Sprint(i)
		for len(s.Runners[i].Phases) < batch.MaxPhases {
			s.Runners[i].Phases = append(s.Runners[i].Phases, batch.Phase{Name: strings.Repeat("<", 50), Seconds: 1.5})
		}
	}
	html, markdown := Render(s)
	sane(t, html, markdown)
	t.Logf("%d bytes of HTML, %d of Markdown", len(html), len(markdown))
	if g := newGantt("", s.Runners); len(g.Lanes) != maxRunners || g.More != 1000-maxRunners {
		t.Errorf("%d lanes and %d more", len(g.Lanes), g.More)
	}
}

const hostile = "</style></title><script>alert(1)</script>'\"`|\n\u202e\x00 ![x](http://evil.example) @all"

func TestHostileTextIsOnlyText(t *testing.T) {
	for _, s := range outcomes() {
		s.Input.Key, s.Input.Bucket, s.Input.ETag, s.Input.SHA256 = "in/"+hostile, hostile, hostile, hostile
		s.Batch, s.Message, s.Code, s.Pool, s.Window, s.OnInvalid, s.Endpoint, s.Finalizer, s.TraceID = hostile, hostile, hostile, hostile, hostile, hostile, hostile, hostile, hostile
		s.Models, s.Metadata = []string{hostile, ""}, map[string]string{hostile: hostile}
		s.Errors = []batch.ErrorClass{{Code: hostile, Count: 1, Lines: []int64{1}, Example: hostile}}
		param := hostile
		s.FileErrors = []batch.BatchError{{Code: hostile, Message: hostile, Param: &param}}
		s.Mixed = []batch.Difference{{Field: hostile, Values: []batch.Variant{{Value: hostile, Count: 2, Runners: []string{hostile}}}}}
		text, _ := json.Marshal(hostile)
		for i := range s.Runners {
			r := &s.Runners[i]
			r.Runner, r.Host, r.Version, r.Currency = hostile, hostile, hostile, hostile
			r.Phases = append(r.Phases, batch.Phase{Name: hostile, Seconds: 3})
			r.Engine = fmt.Appendf(nil, `[{"version":%s,"models":[%s],"record":{%s:1,"args":{%s:%s}}}]`, text, text, text, text, text)
			r.GPUs = fmt.Appendf(nil, `[{"name":%s,"unfit":%s,"xids":{%s:1}}]`, text, text, text)
		}
		html, markdown := Render(s)
		sane(t, html, markdown)
		if strings.ContainsAny(string(html)+string(markdown), "\x00\u202e") {
			t.Error("control characters, or a change of direction, are in it")
		}
		for line := range strings.Lines(string(markdown)) { // outside of code there is no markup left
			outside := regexp.MustCompile("`+ .*? `+").ReplaceAllString(line, "")
			if strings.HasPrefix(strings.TrimSpace(line), "spool ") || strings.HasPrefix(strings.TrimSpace(line), "aws ") {
				continue // a code block
			}
			if regexp.MustCompile(`(^|[^\\])<script|http://|(^|[^\\])\[x\]|@all`).MatchString(outside) {
				t.Errorf("markup in %q", line)
			}
		}
	}
}

func TestSameSummarySameBytes(t *testing.T) {
	for _, s := range outcomes() {
		html, markdown := Render(s)
		for range 5 {
			again, md := Render(s)
			if !bytes.Equal(again, html) || !bytes.Equal(md, markdown) {
				t.Fatal("the same summary gives another report")
			}
		}
		var copied batch.Summary // as spool report reads it
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &copied); err != nil {
			t.Fatal(err)
		}
		again, md := Render(&copied)
		if !bytes.Equal(again, html) || !bytes.Equal(md, markdown) {
			t.Error("read back from summary.json it gives another report")
		}
	}
}

func TestFlowKeepsTheSum(t *testing.T) {
	runners := []batch.Runner{
		{StartedAt: 100, Series: &batch.Series{SlotSeconds: 1, Lines: []int64{5, 0, 7}, OutputTokens: []int64{50, 0, 70}}},
		{StartedAt: 103, Series: &batch.Series{SlotSeconds: 4, Lines: []int64{8}, OutputTokens: []int64{80}}},
		{StartedAt: 99, Series: &batch.Series{SlotSeconds: 0, Lines: []int64{1000}}},
	}
	f := newFlow(runners)
	if diff := cmp.Diff([]float64{5 + 7 + 8*0.25, 8 * 0.75}, f.lines); diff != "" { // slots of 4 s, from 100 on
		t.Error(diff)
	}
	sum := 0.0
	for _, v := range f.tokens {
		sum += v
	}
	if f.slot != 4 || f.start != 100 || f.runners != 2 || sum < 199.999 || sum > 200.001 {
		t.Errorf("flow %+v, %v tokens", f, sum)
	}
	if newFlow(runners[2:]) != nil {
		t.Error("a series without slots gives a flow")
	}
}

// What is not known of the way of a batch, or contradicts the rest, makes no gap and no overlap.
func TestCourseOfABatchIsFromUploadToEnd(t *testing.T) {
	const up, end = 1763900000, 1763900100
	part := func(name string, seconds float64) batch.Phase { return batch.Phase{Name: name, Seconds: seconds} }
	for name, c := range map[string]struct {
		times batch.SummaryTimes
		want  []batch.Phase
	}{
		"completed":         {batch.SummaryTimes{Created: up + 5, InProgress: up + 30}, []batch.Phase{part("plan", 5), part("queue", 25), part("run", 70)}},
		"stopped":           {batch.SummaryTimes{Created: up + 5, InProgress: up + 30, Stopped: up + 90}, []batch.Phase{part("plan", 5), part("queue", 25), part("run", 60), part("stop", 10)}},
		"stopped, not run":  {batch.SummaryTimes{Created: up + 5, Stopped: up + 90}, []batch.Phase{part("plan", 5), part("queue", 85), part("stop", 10)}},
		"a clock is behind": {batch.SummaryTimes{Created: up + 5, InProgress: up - 300}, []batch.Phase{part("plan", 5), part("run", 95)}},
		"a clock is ahead":  {batch.SummaryTimes{Created: up + 5, InProgress: end + 300}, []batch.Phase{part("plan", 5), part("queue", 95)}},
	} {
		t.Run(name, func(t *testing.T) {
			c.times.Uploaded, c.times.Finalized = up, end
			got := course(&batch.Summary{Outcome: batch.Completed, Times: c.times})
			want := newGantt("From upload to end", []batch.Runner{{Runner: "the batch", StartedAt: up, EndedAt: end, Phases: c.want}})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if got := course(outcomes()["Rejected"]); got != nil {
		t.Errorf("a file that was refused has %+v", got)
	}
}

func TestAxisOfLatenciesHasItsMiddleAndSaysThatItIsLogarithmic(t *testing.T) {
	at := func(d time.Duration, n int64) [2]int64 { return [2]int64{int64(batch.LatencyBucket(d)), n} }
	const note = "Each column is a quarter of a doubling: the scale is logarithmic."
	for name, c := range map[string]struct {
		l                         batch.Latencies
		left, middle, right, note string
		bars                      int
	}{
		"even number of columns": {batch.Latencies{at(time.Second, 50), at(1700*time.Millisecond, 50)}, "918 ms", "1.3 s", "1.8 s", note, 2},
		"odd number of columns":  {batch.Latencies{at(time.Second, 50), at(1500*time.Millisecond, 50)}, "918 ms", "1.2 s", "1.6 s", note, 2},
		"one column":             {batch.Latencies{at(time.Second, 7)}, "918 ms", "", "1.0 s", note, 1},
		"refusals of a millisecond": {batch.Latencies{at(time.Millisecond, 30), at(10*time.Second, 1300), at(18*time.Second, 1100)},
			"8.4 s", "14 s", "21 s", note + " Not drawn: 30 requests that took less than 8.4 s.", 2},
		"a straggler": {batch.Latencies{at(time.Second, 1000), at(10*time.Minute, 1)},
			"918 ms", "", "1.0 s", note + " Not drawn: 1 request that took more than 1.0 s.", 1},
		"two kinds of requests": {batch.Latencies{at(time.Millisecond, 300), at(10*time.Second, 1300)}, "1 ms", "98 ms", "10 s", note, 2},
	} {
		t.Run(name, func(t *testing.T) {
			got := latencyChart(c.l)
			if got.Left != c.left || got.Middle != c.middle || got.Right != c.right || got.Note != c.note || len(got.Bars) != c.bars {
				t.Errorf("axis %q, %q, %q, note %q, %d bars", got.Left, got.Middle, got.Right, got.Note, len(got.Bars))
			}
		})
	}
}

func TestUpperEdgeAndColumnsOfAChartHaveTheirUnit(t *testing.T) {
	for _, tt := range []struct {
		unit string
		top  float64
		want string
	}{
		{"chunks", 1, "1 chunk"}, {"chunks", 2, "2 chunks"}, {"requests", 1, "1 request"}, {"lines/s", 1, "1 line/s"}, {"lines/s", 0.5, "0.5 lines/s"},
		{"output tokens/s", 1, "1 output token/s"}, {"output tokens/s", 1234, "1,234 output tokens/s"}, {"%", 1, "1 %"}, {"GB", 1, "1 GB"},
	} {
		c := timeline{slot: 5}.slotChart("title", tt.unit, []float64{0, tt.top})
		if c.Top != tt.want {
			t.Errorf("%v %s: %q, want %q", tt.top, tt.unit, c.Top, tt.want)
		}
		if want := "5 s to 10 s: " + tt.want; c.Bars[0].Tip != want {
			t.Errorf("%v %s: a column says %q, want %q", tt.top, tt.unit, c.Bars[0].Tip, want)
		}
	}
	for n, want := range map[int64]string{1: "1 request", 2: "2 requests"} {
		if got := latencyChart(batch.Latencies{{int64(batch.LatencyBucket(time.Second)), n}}).Top; got != want {
			t.Errorf("latencies: %q, want %q", got, want)
		}
	}
}

// refused is a file that was rejected for what it is, not for its lines.
func refused(message string) *batch.Summary {
	s := outcomes()["Rejected"]
	s.Lines = batch.SummaryLines{}
	s.FileErrors = []batch.BatchError{{Code: batch.CodeEmptyFile, Message: message}}
	return s
}

func TestVerdictsAreSentences(t *testing.T) {
	const noRun = " No line was run, and no GPU was used."
	for message, want := range map[string]string{
		"the file has no line that is not blank": "The file has no line that is not blank." + noRun,
		"body.model is the 101st, split it!":     "body.model is the 101st, split it!" + noRun,
		"Cannot decompress the file. Why?":       "Cannot decompress the file. Why?" + noRun,
		"öde":                                    "Öde." + noRun,
		strings.Repeat("a ", 200):                "A " + strings.Repeat("a ", 149) + "…" + noRun,
	} {
		if got := judge(refused(message)).Text; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for message, want := range map[string]string{
		"an engine lacks m; served are: default, vllmsim": "400 of 1,000 lines have an answer. The cause: an engine lacks m; served are: default, vllmsim.",
		"is there a GPU?": "400 of 1,000 lines have an answer. The cause: is there a GPU?",
		"no memory left.": "400 of 1,000 lines have an answer. The cause: no memory left.",
	} {
		s := outcomes()["Failed"]
		s.Message = message
		if got := judge(s).Text; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := sentence(""); got != "" {
		t.Errorf("nothing gives %q", got)
	}
}

// summary.md has no sections Errors and Identity of such a batch.
func TestStepsNameWhatBothReportsHave(t *testing.T) {
	const heading, mend = "What is wrong with the file", "Mend what is wrong with the file, check, upload again:"
	html, markdown := Render(refused("the file has no line that is not blank"))
	has(t, sane(t, html, markdown), heading, mend+" spool check prompts.jsonl")
	has(t, string(markdown), "### "+heading, "- "+mend)
	const want = "compare body.model with the models served, which report.html has under Identity."
	if got := classAdvice(batch.ErrorClass{Status: 404}); got != "the engine knows no such model or path; "+want {
		t.Errorf("404: %s", got)
	}
}

func TestErrorsOfTheFileAndOfLinesHaveTheirHeadings(t *testing.T) {
	s := outcomes()["Completed, some lines failed"]
	s.FileErrors = []batch.BatchError{{Code: "invalid_json", Message: "found 'n' at byte 1"}}
	has(t, sane(t, HTML(s), Markdown(s)), "Errors What is wrong with the file line code message", "found 'n' at byte 1 Lines without an answer HTTP 400 9 lines")
}

func TestOneIsNotPlural(t *testing.T) {
	s := outcomes()["Rejected"]
	s.Lines.Invalid = 1
	if got, want := judge(s).Text, "1 of 5 lines is bad. No line was run, and no GPU was used."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for n, want := range map[int]string{0: "", 1: "and 1 more kind\n\n", 2: "and 2 more kinds\n\n"} {
		var b strings.Builder
		if mdMore(&b, n, " kind"); b.String() != want {
			t.Errorf("%q, want %q", b.String(), want)
		}
	}
	for n, want := range map[int64]string{1: "1 line was taken over from runners that went, and not asked again.", 2: "2 lines were taken over from runners that went, and not asked again."} {
		if got := recordNotes(&batch.Summary{Runners: []batch.Runner{{EndedAt: 1, Resumed: n}}}); len(got) != 1 || got[0] != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	one := completed(600, 1)
	one.Rates = &batch.SummaryRates{OutputTokens: 1}
	has(t, string(Markdown(one)), "| throughput | 1 line/s, 1 output token/s |")
	values := make([]batch.Variant, maxMixed+1)
	for i := range values {
		values[i] = batch.Variant{Value: fmt.Sprint("v", i), Count: 1, Runners: []string{"r"}}
	}
	one.Mixed = []batch.Difference{{Field: "args", Values: values}}
	has(t, string(HTML(one)), "and 1 more value, in summary.json")
}

// A runner's retries are its own: that it asks again what another one had asked, it does not know.
func TestRequestsAskedAgainAreCountedAcrossRunners(t *testing.T) {
	handedOver := func() *batch.Summary { // two lines, asked by each of five runners
		s := &batch.Summary{Outcome: batch.Completed, Lines: batch.SummaryLines{Total: 2, OK: 1, Failed: 1}, Finalizer: "r-4"}
		for i := range 5 {
			s.Runners = append(s.Runners, batch.Runner{Runner: fmt.Sprint("r-", i), EndedAt: 1763900000, Requests: 2})
		}
		s.Runners[4].OK, s.Runners[4].Err, s.Runners[4].EndedAt = 1, 1, 0
		return s
	}
	const unknown = "10 requests, of them 0 tried again by the same runner"
	for name, c := range map[string]struct {
		change func(*batch.Summary)
		want   string
	}{
		"all is known":                 {func(*batch.Summary) {}, "10 requests, 8 of them asked again"},
		"lines were taken over":        {func(s *batch.Summary) { s.Runners[4].Resumed = 1 }, "10 requests, 8 of them asked again; 1 line taken over from runners that went"},
		"a runner was killed":          {func(s *batch.Summary) { s.Runners[2].EndedAt = 0 }, unknown},
		"a record is older than lines": {func(s *batch.Summary) { s.Runners[4].OK = 0 }, unknown},
		"cut off":                      {func(s *batch.Summary) { s.Lines.Missing = 3 }, unknown},
		"cut off in a stored chunk": {func(s *batch.Summary) {
			s.Code, s.Errors = batch.CodeBatchExpired, []batch.ErrorClass{{Code: batch.CodeBatchExpired, Count: 1}}
		}, unknown},
		"a runner has no record": {func(s *batch.Summary) { s.Runners[4].Retries = 9 }, "10 requests, of them 9 tried again by the same runner"},
		"nothing was asked":      {func(s *batch.Summary) { s.Runners = nil }, ""},
	} {
		s := handedOver()
		if c.change(s); requests(s) != c.want {
			t.Errorf("%s: %q, want %q", name, requests(s), c.want)
		}
	}
}

func TestWordsForFigures(t *testing.T) {
	for got, want := range map[string]string{
		span(0): "0 s", span(0.0004): "1 ms", span(0.25): "250 ms", span(1.5): "1.5 s", span(59.7): "1 min", span(200): "3 min 20 s", span(7500): "2 h 5 min",
		span(90000): "1 d 1 h", span(-3): "0 s", decimal(0): "0", decimal(0.01234): "0.0123", decimal(4.567): "4.57", decimal(78.94): "78.9", decimal(1234.5): "1,235",
		percent(0, 10): "0 %", percent(1, 1e6): "< 0.1 %", percent(999_999, 1e6): "> 99.9 %", percent(10, 10): "100 %", percent(1, 3): "33.3 %", percent(1, 0): "–",
		size(999): "999 bytes", size(1): "1 byte", size(720187): "720 kB", size(8e10): "80 GB", count(-1234567): "-1,234,567", clock(0): "–", lines(1): "1 line", lines(1000): "1,000 lines",
		shell("in/a-b_c.jsonl"): "in/a-b_c.jsonl", shell("in/it's <x>"): `'in/it'\''s <x>'`, shell("a\nb'"): `$'a\x0ab\''`, shell(""): "''",
		plain("a\nb\x00c\u202ed", 100): "a b\uFFFDc\uFFFDd", plain("éééé", 3): "é…",
		mdCode("a`b``c"): "``` a`b``c ```", mdCell("a|b"): "` a\\|b `", mdText("<b> @x www.y http://z"): `\<b\> &#64;x www\.y http:\/\/z`,
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// FuzzRender: whatever stands in summary.json, there is a report, whole and bounded.
func FuzzRender(f *testing.F) {
	for _, s := range outcomes() {
		text, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := new(batch.Summary)
		if json.Unmarshal(text, s) != nil {
			t.Skip()
		}
		html, markdown := Render(s)
		elements(t, html)
		if len(html) > MaxHTML || len(markdown) > MaxMarkdown || !bytes.HasSuffix(bytes.TrimSpace(html), []byte("</html>")) {
			t.Errorf("%d bytes of HTML, %d of Markdown", len(html), len(markdown))
		}
	})
}
