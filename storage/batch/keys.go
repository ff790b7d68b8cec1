package batch

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The top-level prefixes of the bucket. Users write under InPrefix and read InPrefix, OutPrefix and
// LogsPrefix; everything under SysPrefix is spool's own.
const (
	InPrefix    = "in/"
	OutPrefix   = "out/"
	LogsPrefix  = "logs/"
	SysPrefix   = "sys/v1/"
	OpenPrefix  = SysPrefix + "open/"
	EndedPrefix = SysPrefix + "ended/"

	CancelSuffix = ".cancel"
)

// maxPath is the longest input path that is mirrored under out/: S3 keys end at 1,024 bytes, and the
// batch id and file name need room behind it.
const maxPath = 850

// Path gives the part of an input key behind "in/".
func Path(inputKey string) string { return strings.TrimPrefix(inputKey, InPrefix) }

// OutDir is the folder of a batch's results, with a slash at the end.
func OutDir(inputKey, id string) string { return OutPrefix + mirrored(inputKey, id) + id + "/" }

// LogDir is the folder of a batch's logs, with a slash at the end.
func LogDir(inputKey, id string) string { return LogsPrefix + mirrored(inputKey, id) + id + "/" }

func mirrored(inputKey, id string) string {
	if len(inputKey) > maxPath {
		return "_long/"
	}
	return Path(inputKey) + "/"
}

// CancelKey is where a wish to cancel the batch of an input is put.
func CancelKey(inputKey string) string { return inputKey + CancelSuffix }

// longWishes is where wishes are that name a batch.
const longWishes = InPrefix + "_long/"

// LongCancelKey takes the place of CancelKey where that is too long for the store. How long keys may be is the store's matter: 1,024
// bytes for S3, with 255 of them between two slashes where keys are files. It is asked, and refuses.
func LongCancelKey(id string) string { return longWishes + id + CancelSuffix }

// ParseLongCancelKey gives the batch of a LongCancelKey.
func ParseLongCancelKey(key string) (id string, ok bool) {
	id = strings.TrimSuffix(strings.TrimPrefix(key, longWishes), CancelSuffix)
	return id, ValidID(id) && key == LongCancelKey(id)
}

// StatusKey is where people look first: one object an input, about its newest batch.
func StatusKey(inputKey, id string) string {
	if len(inputKey) > maxPath {
		return OutPrefix + "_long/" + id + "/status.json"
	}
	return OutPrefix + Path(inputKey) + "/status.json"
}

// Names of the objects in OutDir.
const (
	OutputName   = "output.jsonl"
	ErrorsName   = "errors.jsonl"
	InvalidName  = "invalid.jsonl"
	SummaryName  = "summary.json"
	MarkdownName = "summary.md"
	ReportName   = "report.html"
	ObjectName   = "batch.json"
)

// Dir is the folder of a batch under sys/, with a slash at the end. The id comes first so that batches
// spread over the store's partitions.
func Dir(id string) string { return SysPrefix + "b/" + id + "/" }

func PlanKey(id string) string     { return Dir(id) + "plan.json" }
func StopKey(id string) string     { return Dir(id) + "stop.json" }
func SentKey(id string) string     { return Dir(id) + "sent.json" }
func ManifestKey(id string) string { return Dir(id) + "manifest.json" }
func ResultKey(id string) string   { return Dir(id) + "result.json" }
func OpenKey(id string) string     { return OpenPrefix + id }

func DonePrefix(id string) string { return Dir(id) + "done/" }
func DoneKey(id string, shard int) string {
	return fmt.Sprintf("%s%05d.json", DonePrefix(id), shard)
}

func PiecePrefix(id string) string { return Dir(id) + "p/" }
func PieceKey(id, folder string, shard int) string {
	return fmt.Sprintf("%s%s/%05d.zst", PiecePrefix(id), folder, shard)
}
func BadKey(id, folder string) string { return PiecePrefix(id) + folder + "/bad.jsonl.zst" }

func ShardsPrefix(id string) string           { return Dir(id) + "s/" }
func ShardPrefix(id string, shard int) string { return fmt.Sprintf("%s%05d/", ShardsPrefix(id), shard) }
func LeaseKey(id string, shard int) string    { return ShardPrefix(id, shard) + "lease.json" }
func ChunkPrefix(id string, shard int) string { return ShardPrefix(id, shard) + "c/" }

// ChunkKey names a chunk by its number in the batch, which rises over shard borders.
func ChunkKey(id string, shard, chunk int) string {
	return fmt.Sprintf("%s%06d.rec", ChunkPrefix(id, shard), chunk)
}

func SegmentPrefix(id string, shard int) string { return ShardPrefix(id, shard) + "x/" }

// SegmentKey names the n-th segment that a runner writes for a shard. Unique, so that it is written once.
func SegmentKey(id string, shard int, runner string, n int) string {
	return fmt.Sprintf("%s%s-%06d.rec", SegmentPrefix(id, shard), runner, n)
}

func RunnersPrefix(id string) string     { return Dir(id) + "r/" }
func RunnerKey(id, runner string) string { return RunnersPrefix(id) + runner + ".json" }

// EndedKey marks an upload that needs no further look: an input by key, ETag and Last-Modified.
func EndedKey(inputKey, etag string, modified time.Time) string {
	text := inputKey + "\n" + strings.Trim(etag, `"`) + "\n" + strconv.FormatInt(modified.Unix(), 10)
	return EndedPrefix + hash26(text)
}

// ParseDoneKey gives the shard of a key under DonePrefix(id).
func ParseDoneKey(id, key string) (shard int, ok bool) {
	return parseNumber(key, DonePrefix(id), ".json", shardDigits)
}

// ShardKey is what a key under ShardsPrefix stands for.
type ShardKey struct {
	Shard int
	Kind  ShardKeyKind
	Chunk int // of KindChunk
}

// ShardKeyKind tells the objects of a shard apart.
type ShardKeyKind int

// Kinds of ShardKey.
const (
	KindOther ShardKeyKind = iota
	KindLease
	KindChunk
	KindSegment
)

// ParseShardKey reads a key under ShardsPrefix(id).
func ParseShardKey(id, key string) (ShardKey, bool) {
	rest, ok := strings.CutPrefix(key, ShardsPrefix(id))
	if !ok {
		return ShardKey{}, false
	}
	number, rest, slash := strings.Cut(rest, "/")
	shard, ok := parsePadded(number, shardDigits)
	if !slash || !ok {
		return ShardKey{}, false
	}
	sk := ShardKey{Shard: shard}
	switch {
	case rest == "lease.json":
		sk.Kind = KindLease
	case strings.HasPrefix(rest, "x/"):
		sk.Kind = KindSegment
	default:
		if n, ok := parseNumber(rest, "c/", ".rec", chunkDigits); ok {
			sk.Kind, sk.Chunk = KindChunk, n
		}
	}
	return sk, true
}

// Least digits of numbers in keys.
const (
	shardDigits = 5
	chunkDigits = 6
)

func parseNumber(key, prefix, suffix string, digits int) (int, bool) {
	rest, ok := strings.CutPrefix(key, prefix)
	if !ok {
		return 0, false
	}
	rest, ok = strings.CutSuffix(rest, suffix)
	if !ok {
		return 0, false
	}
	return parsePadded(rest, digits)
}

// parsePadded reads a number as it is written into keys, and in no other form: two keys of one number
// would be two objects for one fact.
func parsePadded(s string, digits int) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && fmt.Sprintf("%0*d", digits, n) == s && n >= 0
}
