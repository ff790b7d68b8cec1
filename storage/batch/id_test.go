package batch

import "testing"

func TestIDVectorsOfFormat(t *testing.T) {
	for _, v := range []struct {
		id   Identity
		want string
	}{
		{Identity{"spool", "in/math/gsm8k-test.jsonl", "9b2cf535f27731c974343645a3985328", 720187, 0, 0}, "bpicclhpxbn2qqhb5uxmxo6zjly"},
		{Identity{"spool", "in/math/gsm8k-test.jsonl", `"9b2cf535f27731c974343645a3985328"`, 720187, 2, 0}, "bkoemt4kn6kqsds3633jgetvsvy"},
		{Identity{"bücher", "in/ä b+c.jsonl.gz", "d41d8cd98f00b204e9800998ecf8427e-3", 0, 0, 1}, "bqzugqql4oxjri67b5zd3jqlegm"},
	} {
		if got := v.id.ID(); got != v.want {
			t.Errorf("ID(%+v) = %s, want %s", v.id, got, v.want)
		}
	}
}
