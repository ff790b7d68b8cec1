package s3store

import (
	"bytes"
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"spool/storage"
	"spool/storage/internal/s3wire"
)

// parts makes the requests of a multipart upload, and Put.
type parts struct{ *Store }

var _ storage.PartWriter = parts{}

func (p parts) CreateUpload(ctx context.Context, key string, opt storage.PutOptions) (storage.PartUpload, error) {
	in := &s3.CreateMultipartUploadInput{
		Bucket: &p.bucket, Key: &key,
		ContentType: optional(opt.ContentType),
		Metadata:    opt.Metadata,
	}
	if p.crc32 {
		in.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32 // else stores refuse the checksums of the parts at the end
	}
	out, err := p.client.CreateMultipartUpload(ctx, in)
	if err != nil {
		return storage.PartUpload{}, failure(ctx, "upload", key, err)
	}
	return storage.PartUpload{Key: key, ID: aws.ToString(out.UploadId)}, nil
}

func (p parts) UploadPart(ctx context.Context, up storage.PartUpload, number int, body []byte) (storage.Part, error) {
	in := &s3.UploadPartInput{
		Bucket: &p.bucket, Key: &up.Key, UploadId: &up.ID,
		PartNumber:    aws.Int32(int32(number)),
		Body:          bytes.NewReader(body),
		ContentLength: aws.Int64(int64(len(body))),
	}
	if p.crc32 {
		in.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32
	}
	out, err := p.client.UploadPart(ctx, in, p.sendOpt...)
	if err != nil {
		return storage.Part{}, failure(ctx, "upload", up.Key, err)
	}
	part := storage.Part{Number: number, ETag: s3wire.ETag(aws.ToString(out.ETag))}
	if p.crc32 {
		part.Checksum = aws.ToString(out.ChecksumCRC32)
	}
	return part, nil
}

// CompleteUpload makes the object. That AWS may answer 200 and put the error in the body is known to
// the SDK, which makes it an error like others.
func (p parts) CompleteUpload(ctx context.Context, up storage.PartUpload, done []storage.Part, size int64, opt storage.PutOptions) (storage.Object, error) {
	list := make([]types.CompletedPart, len(done))
	for i, part := range done {
		list[i] = types.CompletedPart{
			PartNumber:    aws.Int32(int32(part.Number)),
			ETag:          quoted(part.ETag),
			ChecksumCRC32: optional(part.Checksum),
		}
	}
	in := &s3.CompleteMultipartUploadInput{
		Bucket: &p.bucket, Key: &up.Key, UploadId: &up.ID,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: list},
		IfMatch:         quoted(opt.Cond.IfMatch),
		IfNoneMatch:     absent(opt.Cond),
	}
	if p.aws {
		in.MpuObjectSize = aws.Int64(size) // AWS refuses an object of another size; others do not know the header
	}
	out, err := p.client.CompleteMultipartUpload(ctx, in)
	if err != nil {
		return storage.Object{}, failure(ctx, "upload", up.Key, err)
	}
	return storage.Object{Key: up.Key, Size: size, ETag: s3wire.ETag(aws.ToString(out.ETag))}, nil
}

func (p parts) AbortUpload(ctx context.Context, up storage.PartUpload) error {
	in := &s3.AbortMultipartUploadInput{Bucket: &p.bucket, Key: &up.Key, UploadId: &up.ID}
	if _, err := p.client.AbortMultipartUpload(ctx, in); err != nil {
		return failure(ctx, "upload", up.Key, err)
	}
	return nil
}
