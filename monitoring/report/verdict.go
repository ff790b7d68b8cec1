package report

import (
	"fmt"
	"strings"

	"spool/storage/batch"
)

// verdict is how the batch ended, in a word and in a sentence.
type verdict struct {
	Tone string // good, warn, bad or off: a class of the style
	Sign string // the same for who sees no colours
	Word string
	Text string
	Why  string // the rule that decided
}

// rejected reports whether the file never ran: an accepted one that fails has chunks.
func rejected(s *batch.Summary) bool { return s.Outcome == batch.Failed && s.Chunks == 0 }

// unanswered are all lines of errors.jsonl: those that failed, that were not run to their end, and bad ones.
func unanswered(s *batch.Summary) int64 { return s.Lines.Failed + s.Lines.Missing + s.Lines.Invalid }

// cutOff are the lines that were not run to their end when the batch was stopped: those of chunks that nobody stored, and
// those that runners ended with the code of the stop in chunks that they did store.
func cutOff(s *batch.Summary) int64 {
	n := s.Lines.Missing
	for _, e := range s.Errors {
		if s.Code != "" && e.Status == 0 && e.Code == s.Code {
			n = max(n, min(e.Count, s.Lines.Missing+s.Lines.Failed))
		}
	}
	return n
}

// failed are the lines that were run to their end and failed.
func failed(s *batch.Summary) int64 { return s.Lines.Failed + s.Lines.Missing - cutOff(s) }

// rate is how many lines a second were run to their end; 0 if that is not known.
func rate(s *batch.Summary) float64 {
	if s.Rates == nil || s.Seconds.Running <= 0 {
		return 0
	}
	return float64(s.Lines.OK+failed(s)) / float64(s.Seconds.Running)
}

func judge(s *batch.Summary) verdict {
	answered := answeredText(s.Lines)
	switch {
	case s.Outcome == batch.Completed && unanswered(s) == 0:
		return verdict{"good", "✓", "Completed", answered + ".",
			"Every chunk is stored and errors.jsonl is not there: spool wait exits 0."}
	case s.Outcome == batch.Completed:
		return verdict{"warn", "!", someText(s), answered + "; " + unansweredText(s) + ".",
			"Every chunk is stored and errors.jsonl has lines: spool wait exits 3."}
	case rejected(s):
		return rejection(s)
	case s.Outcome == batch.Cancelled:
		return verdict{"off", "■", "Cancelled", answered + "; " + cutOffText(s) + ".",
			"Somebody asked for its end at " + clock(s.Times.Stopped) + ": spool wait exits 5."}
	case s.Outcome == batch.Expired:
		return verdict{"bad", "✗", "Expired", answered + "; " + cutOffText(s) + ".",
			"Its window of " + plain(s.Window, 20) + " was over at " + clock(s.Times.Expires) + ": spool wait exits 6."}
	case s.Outcome == batch.Failed:
		return verdict{"bad", "✗", "Failed", answered + ". The cause: " + withStop(plain(s.Message, maxText)),
			"It was stopped with the code " + plain(s.Code, 60) + ": spool wait exits 10."}
	}
	return verdict{"off", "?", plain(s.Outcome, 60), answered + ".", "This version of spool does not know the outcome."}
}

// answeredText says how many lines have an answer.
func answeredText(l batch.SummaryLines) string {
	has := "have"
	if l.OK == 1 || l.Total == 1 {
		has = "has"
	}
	switch {
	case l.OK != l.Total:
		return fmt.Sprintf("%s of %s %s an answer", count(l.OK), lines(l.Total), has)
	case l.Total == 1:
		return "The only line has an answer"
	}
	return "All " + lines(l.Total) + " have an answer"
}

// someText names what ended with lines that have no answer.
func someText(s *batch.Summary) string {
	if failed(s) > 0 {
		return "Completed, some lines failed"
	}
	return "Completed, some lines are bad"
}

// unansweredText counts the lines that have no answer, and says why.
func unansweredText(s *batch.Summary) string {
	n := unanswered(s)
	var why []string
	for _, part := range []struct {
		n    int64
		what string
	}{{failed(s), "failed"}, {cutOff(s), "not run to the end"}, {s.Lines.Invalid, "bad"}} {
		if part.n > 0 {
			why = append(why, count(part.n)+" "+part.what)
		}
	}
	return fmt.Sprintf("%s %s without an answer (%s): %s", count(n), verb(n, "is", "are"), percent(float64(n), float64(s.Lines.Total)), strings.Join(why, ", "))
}

// cutOffText counts the lines that were not run to the end.
func cutOffText(s *batch.Summary) string {
	n := cutOff(s)
	return count(n) + " " + verb(n, "was not run to its end", "were not run to their end")
}

func rejection(s *batch.Summary) verdict {
	v := verdict{"bad", "✗", "Rejected", "", "Validation refused the file before any line was run: spool wait exits 4."}
	switch {
	case s.Lines.Invalid > 0:
		v.Text = fmt.Sprintf("%s of %s %s bad. No line was run, and no GPU was used.", count(s.Lines.Invalid), lines(s.Lines.Total), verb(s.Lines.Invalid, "is", "are"))
	case len(s.FileErrors) > 0:
		v.Text = sentence(plain(s.FileErrors[0].Message, maxText)) + " No line was run, and no GPU was used."
	default:
		v.Text = "No line was run, and no GPU was used."
	}
	return v
}

// step is one thing to do next; Command may be empty.
type step struct{ Text, Command string }

// next says what to do about the outcome.
func next(s *batch.Summary) []step {
	key := "s3://" + s.Input.Bucket + "/" + s.Input.Key
	dir := "s3://" + s.Input.Bucket + "/" + batch.OutDir(s.Input.Key, s.Batch)
	fetch := step{"Fetch everything, with spool or without it:", "spool results " + shell(key) + " -o results/\naws s3 cp --recursive " + shell(dir) + " results/"}
	again := step{"Run the failed lines again, as a new input:", "spool retry " + shell(key) + " --wait"}
	const rest = "what failed or was not run to the end"
	var steps []step
	switch {
	case rejected(s):
		return rejectedNext(s)
	case s.Outcome == batch.Cancelled:
		steps = append(steps, step{"Run " + rest + ", as a new input:", again.Command})
	case s.Outcome == batch.Expired:
		steps = append(steps, step{"Give it a longer window (at most 720h), or more runners, then run " + rest + ":",
			"spool retry " + shell(key) + "   # or: spool submit FILE --window 48h"})
	case s.Outcome == batch.Failed:
		steps = append(steps, step{"Mend the cause: " + advice(s.Code), ""}, step{"Run " + rest + ", as a new input:", again.Command})
	case unanswered(s) == 0:
		return []step{fetch}
	default:
		for _, e := range s.Errors[:min(3, len(s.Errors))] {
			steps = append(steps, step{fmt.Sprintf("%s, %s: %s", className(e), lines(e.Count), classAdvice(e)), ""})
		}
		if s.Lines.Failed+s.Lines.Missing > 0 {
			steps = append(steps, again)
		}
	}
	return append(steps, fetch)
}

func rejectedNext(s *batch.Summary) []step {
	if s.Lines.Invalid == 0 {
		return []step{{"Mend what is wrong with the file, check, upload again:", "spool check prompts.jsonl"}}
	}
	return []step{
		{"Every bad line is in invalid.jsonl, with its number, a code and the reason. Mend or remove them, check, upload again:", "spool check prompts.jsonl"},
		{"Or run the good lines only, and have the bad ones in errors.jsonl:", "spool submit prompts.jsonl " + shell(s.Input.Key) + " --replace --on-invalid skip"},
	}
}

// className is what a class of errors is called.
func className(e batch.ErrorClass) string {
	if e.Status != 0 {
		return fmt.Sprintf("HTTP %d", e.Status)
	}
	return plain(e.Code, 60)
}

func classAdvice(e batch.ErrorClass) string {
	switch {
	case e.Status == 0:
		return advice(e.Code)
	case e.Status == 404:
		return "the engine knows no such model or path; compare body.model with the models served, which report.html has under Identity."
	case e.Status == 413 || e.Status == 400 || e.Status == 422:
		return "the engine refuses these requests as they are; the example says why. Asking again gives the same answer: mend the lines."
	case e.Status == 401 || e.Status == 403:
		return "the engine wants a key; see SPOOL_ENGINE_API_KEY."
	case e.Status == 429 || e.Status == 503:
		return "the engine was full; fewer --slots or more runners help."
	case e.Status >= 500:
		return "the engine failed on these lines in every attempt; its log says why."
	}
	return "the example has the engine's answer."
}

// advice says what a code means and what helps.
func advice(code string) string {
	switch code {
	case batch.CodeBatchCancelled:
		return "not run to their end when the batch was cancelled; spool retry runs them."
	case batch.CodeBatchExpired:
		return "not run to their end when the window was over; a longer window or more runners help."
	case batch.CodeInvalidRequest:
		return "bad lines that were skipped; invalid.jsonl has each with its reason."
	case batch.CodeRequestTimeout:
		return "no answer in time in any attempt; a smaller max_tokens, or a longer retry.timeout of the pool, helps."
	case batch.CodeRunnerCrashed:
		return "the engine died whenever it had the line; look at the line and at the engine's log before running it again."
	case batch.CodeEngineError:
		return "no usable answer after all attempts; the engine's log says why."
	case batch.CodeModelNotFound:
		return "no runner's engine serves the model that the lines name; mend body.model, or the pool."
	case "engine_denied", "model_access":
		return "the engine or the model's hub wants another key or token."
	case "bad_argument", "command_not_found":
		return "the engine's command line is wrong; the message names the argument."
	case "kv_cache_too_small", "out_of_memory":
		return "the model does not fit; use a larger GPU, more of them, or a smaller --max-model-len."
	case "no_device":
		return "the machine shows no GPU that the engine can use; look at its driver, and at how the container was started."
	case batch.ErrorClassOther:
		return "too many kinds to be told apart here; errors.jsonl has each."
	}
	return "the message of the example has the cause."
}
