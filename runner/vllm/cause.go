package vllm

import (
	"errors"
	"strings"
)

// Cause is why a vLLM did not start. Its values are for people, metrics and the batch's error.
type Cause string

// Causes of a StartError.
const (
	CauseCommand  Cause = "command_not_found"  // the program cannot be run
	CauseArgument Cause = "bad_argument"       // of the command line, or at odds with the model
	CauseModel    Cause = "model_not_found"    // nor a folder, nor at the hub; or not a model that vLLM knows
	CauseAccess   Cause = "model_access"       // the hub wants another token
	CauseHub      Cause = "hub_unreachable"    // the model's hub does not answer
	CauseKVCache  Cause = "kv_cache_too_small" // for one request of the model's length
	CauseMemory   Cause = "out_of_memory"      // of GPU or machine
	CauseDevice   Cause = "no_device"          // no GPU that it sees, or not the libraries to use it
	CauseAddress  Cause = "address_in_use"     // its socket or port
	CauseTimeout  Cause = "start_timeout"      // not ready within Config.StartLimit
	CauseUnknown  Cause = "start_failed"       // Detail and Log say more
)

// permanent says that the next start will end in the same way.
func (c Cause) permanent() bool {
	switch c {
	case CauseCommand, CauseArgument, CauseModel, CauseAccess, CauseKVCache, CauseDevice:
		return true
	}
	return false
}

// StartError says why vLLM did not start.
type StartError struct {
	Cause     Cause
	Permanent bool     // no start with this configuration on this machine will do better
	Detail    string   // the line of its log that tells most, or what the system said
	State     string   // how it ended: "exit status 1", "signal: killed"; "" if it was running, or never did
	Log       []string // its last lines, at most startErrorLines
}

// startErrorLines is how many lines a StartError quotes.
const startErrorLines = 40

func (e *StartError) Error() string {
	text := "vllm did not start: " + string(e.Cause)
	if e.State != "" {
		text += " (" + e.State + ")"
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// ErrorType is the cause, for logs.
func (e *StartError) ErrorType() string { return string(e.Cause) }

// Quotes says that Detail is what vLLM wrote.
func (e *StartError) Quotes() bool { return true }

// Types of errors in logs, beside causes.
const (
	TypeDied   = "engine_died"  // it was ready
	TypeDown   = "engine_down"  // none answers, or none is ready
	TypeHangs  = "engine_hangs" // it, or a process of it, does not end
	TypeEngine = "engine"       // what it wrote itself as a warning or error, and no cause is known in it
	TypeMemory = "gpu_memory"   // in use or not known
)

// typed is an error with a type for logs.
type typed struct{ text, kind string }

func (e typed) Error() string     { return e.text }
func (e typed) ErrorType() string { return e.kind }

// quoted is an error whose text holds what an engine answered: it stays in the log.
type quoted struct{ error }

func (e quoted) Unwrap() error { return e.error }
func (e quoted) Quotes() bool  { return true }

// ErrBudget is wrapped by Run's error when vLLM died more often than Config.Restarts allows.
var ErrBudget = errors.New("vllm died too often")

// sign is a text by which a cause is known in vLLM's log.
type sign struct {
	cause Cause
	text  string
}

// signs are in the order in which they are looked for: a failed start mostly ends in general complaints. Texts without a remark were read in the
// sources of 0.32; "seen" ones were provoked.
func signs() []sign {
	return []sign{
		{CauseArgument, "error: unrecognized arguments"}, // seen, exit status 2
		{CauseArgument, "error: argument "},
		{CauseArgument, "error: the following arguments"},
		{CauseArgument, "error: ambiguous option"},
		{CauseArgument, "error: one of the arguments"},
		{CauseAddress, "Address already in use"},                                     // seen
		{CauseMemory, "No available memory for the cache blocks"},                    // what an earlier process held may come back
		{CauseKVCache, "To serve at least one request with the model's max seq len"}, // seen
		{CauseKVCache, "larger than the maximum number of tokens that can be stored in KV cache"},
		{CauseMemory, "is less than desired GPU memory utilization"},
		{CauseMemory, "is less than desired CPU memory utilization"},
		{CauseMemory, "allocation is less than requested memory for kv"},
		{CauseMemory, "is less than the engine's budget"},
		{CauseMemory, "CUDA out of memory"},
		{CauseMemory, "HIP out of memory"},
		{CauseMemory, "OutOfMemoryError"},
		{CauseMemory, "CUDA error: out of memory"},
		{CauseMemory, "DefaultCPUAllocator: can't allocate memory"},
		{CauseMemory, "Cannot allocate memory"},
		{CauseMemory, "MemoryError"},
		{CauseDevice, "Failed to infer device type"},
		{CauseDevice, "ImportError: libcuda.so"}, // "… cannot open shared object file"
		{CauseDevice, "ImportError: libcudart.so"},
		{CauseAccess, "GatedRepoError"},
		{CauseAccess, "You are trying to access a gated repo"},
		{CauseAccess, "401 Client Error"},
		{CauseAccess, "403 Client Error"},
		{CauseHub, "check your internet connection"},
		{CauseHub, "We couldn't connect to"},
		{CauseModel, "RepositoryNotFoundError"},
		{CauseModel, "RevisionNotFoundError"},
		{CauseModel, "is not a local folder and is not a valid model identifier"},
		{CauseModel, "Repo id must"}, // seen: a folder that is not there
		{CauseModel, "HFValidationError"},
		{CauseModel, "LocalEntryNotFoundError"}, // seen: a name that is not in the cache, with HF_HUB_OFFLINE
		{CauseModel, "Invalid repository ID or local directory specified"},
		{CauseModel, "Cannot find any model weights"},
		{CauseModel, "Cannot find model module"},
		{CauseModel, "does not recognize this architecture"},
		{CauseModel, "are not supported for now"}, // architectures
		{CauseModel, "Can't load tokenizer"},
		{CauseArgument, "validation error for"}, // pydantic's, of vLLM's configuration
		{CauseArgument, "validation errors for"},
		{CauseArgument, "looks like a file path, but it failed to be opened"}, // of a chat template
		{CauseArgument, "invalid tool call parser"},
		{CauseArgument, "invalid reasoning parser"},
	}
}

// explain finds the cause in the last lines of a vLLM that ended before it was ready.
func explain(lines []string, state string) *StartError {
	e := &StartError{Cause: CauseUnknown, State: state, Log: lines[max(0, len(lines)-startErrorLines):]}
	for _, s := range signs() {
		if line, ok := findSign(lines, s.text); ok {
			e.Cause, e.Permanent, e.Detail = s.cause, s.cause.permanent(), line
			return e
		}
	}
	if state == "signal: killed" { // by nobody here: the kernel's choice when memory runs out
		e.Cause = CauseMemory
	}
	for _, line := range lines {
		if looksLikeError(line) {
			e.Detail = strings.TrimSpace(line)
			break // the first is the root: EngineCore's comes before the API server's
		}
	}
	return e
}

// findSign gives the line with the text, rather one that ends a traceback than one of the code that it shows.
func findSign(lines []string, text string) (found string, ok bool) {
	for _, line := range lines {
		if strings.Contains(line, text) && (!ok || looksLikeError(line)) {
			found, ok = strings.TrimSpace(line), true
			if looksLikeError(line) {
				break
			}
		}
	}
	return found, ok
}

// looksLikeError knows the last line of a Python traceback: "ValueError: text", "torch.cuda.SomeError: text".
func looksLikeError(line string) bool {
	name, _, ok := strings.Cut(line, ": ")
	name = strings.TrimSpace(name)
	return ok && !strings.Contains(name, " ") && (strings.HasSuffix(name, "Error") || strings.HasSuffix(name, "Exception"))
}

// refusedOptions gives the options of ours that this vLLM does not know, if these are all that it complains about.
func (e *StartError) refusedOptions(ours []option) []string {
	_, list, ok := strings.Cut(e.Detail, "unrecognized arguments: ")
	if e.Cause != CauseArgument || !ok {
		return nil
	}
	values := map[string]string{}
	for _, o := range ours {
		values[o.flag] = o.value
	}
	var refused []string
	words := strings.Fields(list)
	for i := 0; i < len(words); i++ {
		value, known := values[words[i]]
		if !known {
			return nil
		}
		refused = append(refused, words[i])
		if value != "" && i+1 < len(words) && words[i+1] == value {
			i++
		}
	}
	return refused
}
