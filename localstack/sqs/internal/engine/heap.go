package engine

import "container/heap"

// messages is a heap of messages that knows where each of them stands, so that one can be taken out of the
// middle. A message is in one heap at a time.
type messages struct {
	items []*message
	less  func(a, b *message) bool
}

var _ heap.Interface = (*messages)(nil)

func (h *messages) Len() int           { return len(h.items) }
func (h *messages) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }

func (h *messages) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index, h.items[j].index = i, j
}

// Push is for container/heap; use add.
func (h *messages) Push(x any) {
	m := x.(*message)
	m.index = len(h.items)
	h.items = append(h.items, m)
}

// Pop is for container/heap; use next and remove.
func (h *messages) Pop() any {
	last := len(h.items) - 1
	m := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	return m
}

func (h *messages) add(m *message)    { heap.Push(h, m) }
func (h *messages) remove(m *message) { heap.Remove(h, m.index) }

// first is the least message, nil if there is none.
func (h *messages) first() *message {
	if len(h.items) == 0 {
		return nil
	}
	return h.items[0]
}

func bySequence(a, b *message) bool   { return a.sequence < b.sequence }
func byVisibility(a, b *message) bool { return a.visibleAt.Before(b.visibleAt) }
