package miniostore

import (
	"bytes"
	"context"

	"github.com/minio/minio-go/v7"

	"spool/storage"
)

// parts makes the requests of a multipart upload, and Put.
type parts struct{ *Store }

var _ storage.PartWriter = parts{}

func (p parts) CreateUpload(ctx context.Context, key string, opt storage.PutOptions) (storage.PartUpload, error) {
	opt.Cond = storage.Cond{} // it belongs to the completion
	id, err := p.core.NewMultipartUpload(ctx, p.bucket, key, putOptions(opt))
	if err != nil {
		return storage.PartUpload{}, failure(ctx, "upload", key, err)
	}
	return storage.PartUpload{Key: key, ID: id}, nil
}

func (p parts) UploadPart(ctx context.Context, up storage.PartUpload, number int, body []byte) (storage.Part, error) {
	o := minio.PutObjectPartOptions{Md5Base64: p.contentMD5(body), DisableContentSha256: true}
	part, err := p.core.PutObjectPart(ctx, p.bucket, up.Key, up.ID, number, bytes.NewReader(body), int64(len(body)), o)
	if err != nil {
		return storage.Part{}, failure(ctx, "upload", up.Key, err)
	}
	return storage.Part{Number: number, ETag: part.ETag}, nil
}

func (p parts) CompleteUpload(ctx context.Context, up storage.PartUpload, done []storage.Part, size int64, opt storage.PutOptions) (storage.Object, error) {
	list := make([]minio.CompletePart, len(done))
	for i, part := range done {
		list[i] = minio.CompletePart{PartNumber: part.Number, ETag: part.ETag}
	}
	var o minio.PutObjectOptions
	conditions(&o, opt.Cond)
	info, err := p.core.CompleteMultipartUpload(ctx, p.bucket, up.Key, up.ID, list, o)
	if err != nil {
		return storage.Object{}, failure(ctx, "upload", up.Key, err)
	}
	return storage.Object{Key: up.Key, Size: size, ETag: info.ETag}, nil
}

func (p parts) AbortUpload(ctx context.Context, up storage.PartUpload) error {
	if err := p.core.AbortMultipartUpload(ctx, p.bucket, up.Key, up.ID); err != nil {
		return failure(ctx, "upload", up.Key, err)
	}
	return nil
}
