package batch

import (
	"strings"
	"testing"
	"time"
)

const keyID = "bpicclhpxbn2qqhb5uxmxo6zjly"

func TestKeysAreThoseOfFormat(t *testing.T) {
	long := "in/" + strings.Repeat("x", 848)
	for got, want := range map[string]string{
		OutDir("in/a/b.jsonl", keyID):               "out/a/b.jsonl/" + keyID + "/",
		LogDir("in/a/b.jsonl", keyID):               "logs/a/b.jsonl/" + keyID + "/",
		StatusKey("in/a/b.jsonl", keyID):            "out/a/b.jsonl/status.json",
		OutDir(long, keyID):                         "out/_long/" + keyID + "/",
		LogDir(long, keyID):                         "logs/_long/" + keyID + "/",
		StatusKey(long, keyID):                      "out/_long/" + keyID + "/status.json",
		CancelKey("in/a/b.jsonl"):                   "in/a/b.jsonl.cancel",
		LongCancelKey(keyID):                        "in/_long/" + keyID + ".cancel",
		OutDir(long[:850], keyID):                   "out/" + long[3:850] + "/" + keyID + "/",
		PlanKey(keyID):                              "sys/v1/b/" + keyID + "/plan.json",
		StopKey(keyID):                              "sys/v1/b/" + keyID + "/stop.json",
		SentKey(keyID):                              "sys/v1/b/" + keyID + "/sent.json",
		ManifestKey(keyID):                          "sys/v1/b/" + keyID + "/manifest.json",
		ResultKey(keyID):                            "sys/v1/b/" + keyID + "/result.json",
		OpenKey(keyID):                              "sys/v1/open/" + keyID,
		DoneKey(keyID, 7):                           "sys/v1/b/" + keyID + "/done/00007.json",
		PieceKey(keyID, "w-1", 7):                   "sys/v1/b/" + keyID + "/p/w-1/00007.zst",
		BadKey(keyID, "w-1"):                        "sys/v1/b/" + keyID + "/p/w-1/bad.jsonl.zst",
		LeaseKey(keyID, 7):                          "sys/v1/b/" + keyID + "/s/00007/lease.json",
		ChunkKey(keyID, 7, 56):                      "sys/v1/b/" + keyID + "/s/00007/c/000056.rec",
		SegmentKey(keyID, 7, "r-1", 2):              "sys/v1/b/" + keyID + "/s/00007/x/r-1-000002.rec",
		RunnerKey(keyID, "r-1"):                     "sys/v1/b/" + keyID + "/r/r-1.json",
		EndedKey("in/x", `"e"`, time.Unix(5, 999)):  EndedKey("in/x", "e", time.Unix(5, 0)),
		EndedKey("in/x", "e", time.Unix(5, 0))[:13]: "sys/v1/ended/",
		DoneKey(keyID, 123456):                      "sys/v1/b/" + keyID + "/done/123456.json", // more than the digits: still unique
		ChunkKey(keyID, 123456, 1234567):            "sys/v1/b/" + keyID + "/s/123456/c/1234567.rec",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestWishesThatNameABatchAreReadBack(t *testing.T) {
	if id, ok := ParseLongCancelKey(LongCancelKey(keyID)); !ok || id != keyID {
		t.Errorf("got %q, %v", id, ok)
	}
	for _, key := range []string{"", keyID, "in/_long/" + keyID, keyID + ".cancel", "in/" + keyID + ".cancel", "in/_long/x.cancel", LongCancelKey("a/" + keyID)} {
		if id, ok := ParseLongCancelKey(key); ok {
			t.Errorf("ParseLongCancelKey(%q) = %q", key, id)
		}
	}
}

func TestEndedKeysDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, key := range []string{EndedKey("in/x", "e", time.Unix(5, 0)), EndedKey("in/y", "e", time.Unix(5, 0)),
		EndedKey("in/x", "f", time.Unix(5, 0)), EndedKey("in/x", "e", time.Unix(6, 0))} {
		if seen[key] {
			t.Errorf("%q twice", key)
		}
		seen[key] = true
	}
}

func TestShardKeysAreReadBack(t *testing.T) {
	for key, want := range map[string]ShardKey{
		LeaseKey(keyID, 7):                 {Shard: 7, Kind: KindLease},
		ChunkKey(keyID, 7, 56):             {Shard: 7, Kind: KindChunk, Chunk: 56},
		ChunkKey(keyID, 123456, 1234567):   {Shard: 123456, Kind: KindChunk, Chunk: 1234567},
		SegmentKey(keyID, 7, "r-1", 2):     {Shard: 7, Kind: KindSegment},
		ShardPrefix(keyID, 7) + "new.json": {Shard: 7},
		ShardPrefix(keyID, 7) + "c/x.rec":  {Shard: 7},
		ShardPrefix(keyID, 7):              {Shard: 7},
	} {
		if got, ok := ParseShardKey(keyID, key); !ok || got != want {
			t.Errorf("ParseShardKey(%q) = %+v, %v, want %+v", key, got, ok, want)
		}
	}
	for _, key := range []string{"", ShardsPrefix(keyID), ShardsPrefix(keyID) + "x/lease.json", ShardsPrefix(keyID) + "-0001/lease.json",
		ShardsPrefix(keyID) + "00007", LeaseKey("b", 7), "x" + LeaseKey(keyID, 7)} {
		if got, ok := ParseShardKey(keyID, key); ok {
			t.Errorf("ParseShardKey(%q) = %+v", key, got)
		}
	}
}

func TestDoneKeysAreReadBack(t *testing.T) {
	for _, shard := range []int{0, 7, 99999, 123456} {
		if got, ok := ParseDoneKey(keyID, DoneKey(keyID, shard)); !ok || got != shard {
			t.Errorf("ParseDoneKey of shard %d = %d, %v", shard, got, ok)
		}
	}
	for _, name := range []string{"", "x.json", "00001", "00001.json.bak", "-0001.json", "+0001.json", "1.json", "000001.json"} {
		if got, ok := ParseDoneKey(keyID, DonePrefix(keyID)+name); ok {
			t.Errorf("ParseDoneKey of %q = %d", name, got)
		}
	}
}

func FuzzParseShardKey(f *testing.F) {
	f.Add(LeaseKey(keyID, 7))
	f.Add(ChunkKey(keyID, 7, 56))
	f.Add(SegmentKey(keyID, 7, "r", 2))
	f.Add(ShardsPrefix(keyID) + "+0007/c/+00056.rec")
	f.Fuzz(func(t *testing.T, key string) {
		got, ok := ParseShardKey(keyID, key)
		switch {
		case !ok:
		case got.Kind == KindChunk && ChunkKey(keyID, got.Shard, got.Chunk) != key,
			got.Kind == KindLease && LeaseKey(keyID, got.Shard) != key,
			!strings.HasPrefix(key, ShardPrefix(keyID, got.Shard)):
			t.Errorf("ParseShardKey(%q) = %+v, which has another key", key, got)
		}
	})
}
