package vllmsim

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"
	"math"
	"strconv"
	"strings"
)

// bytesPerToken is the usual rule of thumb for English, by which prompts are counted.
const bytesPerToken = 4

func tokensOf(text string) int { return (len(text) + bytesPerToken - 1) / bytesPerToken }

// words fill the answers: all of three letters, so that with a space each is a token of bytesPerToken.
const words = "" +
	"airallandanyartaskbaybedbigboxbuscancarcatcupdaydogdryeareateggendeyefar" +
	"flyfogfungasgethathoticeinkjarjobkeylawlegliplowmapmixnetnewnutoakoilold" +
	"onepenpotredrowrunseaskysuntaxteathetoptoytwo"

const wordLen = bytesPerToken - 1

func word(n uint64) string {
	i := n % uint64(len(words)/wordLen) * wordLen
	return words[i : i+wordLen]
}

// cutMark ends a text that Config.TextTokens has cut.
const cutMark = " ..."

// voice is what the answers to one request are made of: a pure function of the request's path and the
// bytes of its body.
type voice struct {
	path uint64
	sum  [sha256.Size]byte
}

func voiceOf(path string, body []byte) voice {
	h := fnv.New64a()
	_, _ = h.Write([]byte(path)) // a hash never fails
	return voice{path: h.Sum64(), sum: sha256.Sum256(body)}
}

func (v voice) rand(stream uint64) *splitmix {
	r := splitmix(binary.LittleEndian.Uint64(v.sum[:8]) ^ v.path ^ stream*0x9e3779b97f4a7c15)
	return &r
}

// digest is the first 16 hexadecimal digits of the body's sha256: the first token of every text.
func (v voice) digest() string { return hex.EncodeToString(v.sum[:8]) }

// text is the answer of the given length: the digest, the number of the choice after a dot, and words.
func (v voice) text(choice, tokens, cut int) string {
	if tokens == 0 {
		return ""
	}
	n := tokens
	if cut > 0 {
		n = min(n, cut)
	}
	r := v.rand(uint64(choice))
	var b strings.Builder
	b.Grow(n*bytesPerToken + 24)
	b.WriteString(v.digest())
	b.WriteByte('.')
	b.WriteString(strconv.Itoa(choice))
	for range n - 1 {
		b.WriteByte(' ')
		b.WriteString(word(r.next()))
	}
	if n < tokens {
		b.WriteString(cutMark)
	}
	return b.String()
}

// length draws the natural length of a choice.
func (v voice) length(choice int, c *Config) int {
	r := v.rand(uint64(choice) ^ c.Seed*0xd1342543de82ef95 ^ 1<<63)
	n := float64(c.Lengths[r.next()%uint64(len(c.Lengths))]) * c.LengthScale
	return int(max(1, math.Round(n)))
}

// splitmix is the generator of Steele, Lea and Flood, "Fast splittable pseudorandom number generators"
// (2014): small, and the same on every platform and in every version of Go.
type splitmix uint64

func (s *splitmix) next() uint64 {
	*s += 0x9e3779b97f4a7c15
	z := uint64(*s)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// embed is the embedding of a text: a unit vector that depends on nothing else, so that equal texts are
// equally embedded wherever they occur, as by a real model.
func embed(text string, size int) []float32 {
	sum := sha256.Sum256([]byte(text))
	r := splitmix(binary.LittleEndian.Uint64(sum[:8]))
	raw := make([]float64, size)
	var norm float64
	for i := range raw {
		raw[i] = float64(r.next()>>11)/(1<<52) - 1
		norm += raw[i] * raw[i]
	}
	norm = math.Sqrt(norm)
	out := make([]float32, size)
	for i, x := range raw {
		out[i] = float32(x / norm)
	}
	return out
}

// similarity is the cosine of the embeddings of two texts, which is how vLLM scores with an embedding model.
func similarity(a, b string, size int) float64 {
	var dot float64
	x, y := embed(a, size), embed(b, size)
	for i := range x {
		dot += float64(x[i]) * float64(y[i])
	}
	return dot
}

// probabilities are those of two classes: the softmax of the embedding's first two dimensions.
func probabilities(text string) []float64 {
	v := embed(text, 2)
	a, b := math.Exp(float64(v[0])), math.Exp(float64(v[1]))
	return []float64{a / (a + b), b / (a + b)}
}
