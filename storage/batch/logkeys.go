package batch

import (
	"fmt"
	"strconv"
	"strings"
)

// logSuffix is that of all logs: one JSON object a line, compressed.
const logSuffix = ".ndjson.gz"

// OtherLogsPrefix is where logs are that are about no batch. (An input in/_/… has its logs there, too.)
const OtherLogsPrefix = LogsPrefix + "_/"

// OtherLogDir is the folder for what a process logs about no batch, with a slash at the end.
func OtherLogDir(component, instance string) string {
	return OtherLogsPrefix + component + "/" + instance + "/"
}

// LogPart names the lines first to last, by seq, in the folder of their process. The numbers have ten digits at
// least, so that keys sort as the lines do.
func LogPart(first, last int64) string { return fmt.Sprintf("%010d-%010d%s", first, last, logSuffix) }

// LogKey is a key under LogDir.
type LogKey struct {
	Instance    string // of the process; "" if parts of several were joined
	First, Last int64  // lines by seq; 0 if parts were joined
}

// Joined reports whether this is an object that was made of several parts.
func (k LogKey) Joined() bool { return k.Instance == "" }

// JoinedLogKey names an object that is made of the parts of a batch. name is unique and has no slash.
func JoinedLogKey(dir, name string) string { return dir + "all-" + name + logSuffix }

// ParseLogKey reads a key under dir, a LogDir. What spool did not write there is not ok.
func ParseLogKey(dir, key string) (k LogKey, ok bool) {
	rest, ok := strings.CutPrefix(key, dir)
	if !ok {
		return k, false
	}
	rest, ok = strings.CutSuffix(rest, logSuffix)
	if !ok {
		return k, false
	}
	instance, name, slash := strings.Cut(rest, "/")
	if !slash {
		name, ok = strings.CutPrefix(instance, "all-")
		return LogKey{}, ok && name != ""
	}
	first, last, ok := strings.Cut(name, "-")
	if !ok || instance == "" {
		return k, false
	}
	k = LogKey{Instance: instance}
	k.First, _ = strconv.ParseInt(first, 10, 64)
	k.Last, _ = strconv.ParseInt(last, 10, 64)
	return k, k.First > 0 && k.First <= k.Last && LogPart(k.First, k.Last) == name+logSuffix
}

// LogBatch gives the folder and the batch of a key under LogsPrefix that LogDir stands before: of a part or of
// joined parts.
func LogBatch(key string) (dir, id string, ok bool) {
	parts := strings.Split(key, "/")
	for back := 2; back <= 3 && back < len(parts); back++ {
		id = parts[len(parts)-back]
		dir = strings.Join(parts[:len(parts)-back+1], "/") + "/"
		if _, isLog := ParseLogKey(dir, key); ValidID(id) && isLog {
			return dir, id, true
		}
	}
	return "", "", false
}
