package finalize

import (
	"spool/storage"
	"spool/storage/batch"
	"spool/storage/batch/jsonl"
)

// Upper bounds of lines that are made here, whose bytes nobody has counted. Each byte of a custom_id may become an
// escape of six.
const (
	longestFrame = 512     // all but custom_id and message
	longestWhy   = 1 << 10 // message of a bad line, escaped: jsonl quotes 60 bytes of a line
	longestID    = 6 * jsonl.MaxCustomIDBytes
	longestBad   = longestFrame + longestID + longestWhy // in errors.jsonl and in invalid.jsonl
)

// mostErrors is an upper bound of the size of errors.jsonl; the size itself if no line is made here.
func mostErrors(t tally, m *batch.Manifest) int64 {
	missing := longestFrame + longestID + 6*int64(len(m.Code)+len(m.Message))
	return m.Counts.ErrBytes + t.missing*missing + t.bad*longestBad
}

// options are those of the upload. A size is announced only if it is known.
func (to target) options() storage.PutOptions {
	opt := storage.PutOptions{ContentType: "application/jsonl", PartSize: partSize(to.most)}
	if to.exact {
		opt.Size = to.most
	}
	return opt
}

// partsAimed leaves some air below storage.MaxParts.
const partsAimed = storage.MaxParts * 95 / 100

// partSize gives the size of the parts of a file that has at most so many bytes. It is the least that there is, unless the
// file might then have too many parts: a part is held in memory, where the collector doubles it, while some requests more
// cost little.
func partSize(most int64) int64 {
	const mib = 1 << 20
	need := (most + partsAimed - 1) / partsAimed
	return max(storage.MinPartSize, (need+mib-1)/mib*mib)
}
